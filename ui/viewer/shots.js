// A shot: what makes two clips the same one, and what the panel takes over of a clip.

const SHOT = ["prompt", "seed", "width", "height", "num_frames", "image_sha256"];

/** Whether two clips, turbo and full say, are of one shot. Both: as the server describes them. */
export function sameShot(a, b) {
  return SHOT.every((name) => a[name] === b[name]);
}

/** For `Panel.set`. A clip's steps are those of its own mode. clip: an entry of the history, or a recipe. */
export function controlsOf({ prompt, seed, mode, num_steps: steps, sampler, negative_prompt, width, height, num_frames, image_sha256 = "" }) {
  const shot = { prompt, seed, width, height, num_frames, image_sha256 };
  return mode === "full" ? { ...shot, full_steps: steps, negative_prompt } : { ...shot, num_steps: steps, sampler };
}
