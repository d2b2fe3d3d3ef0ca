// Files dropped on the page: a clip of ours gives back the shot it was made of.

export class Drop {
  /** onFile(file). */
  constructor(root, onFile) {
    let depth = 0;
    const files = (event) => event.dataTransfer?.types.includes("Files");
    const show = (on) => { root.dataset.drop = on; };
    root.addEventListener("dragenter", (event) => {
      if (files(event) && ++depth) show(true);
    });
    root.addEventListener("dragleave", (event) => {
      if (files(event) && --depth <= 0) show(false);
    });
    root.addEventListener("dragover", (event) => files(event) && event.preventDefault());
    root.addEventListener("drop", (event) => {
      if (!files(event)) return;
      event.preventDefault();
      depth = 0;
      show(false);
      const [file] = event.dataTransfer.files;
      if (file) onFile(file);
    });
  }
}
