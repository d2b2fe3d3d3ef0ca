// A WebSocket that comes back: one connection at a time, waiting longer after each failure, up to four seconds.

export class Socket {
  /** onText(object), onBytes(ArrayBuffer), onState("open" | "lost"). */
  constructor(path, { onText, onBytes, onState }) {
    this._url = `${location.protocol === "https:" ? "wss:" : "ws:"}//${location.host}${path}`;
    this._on = { onText, onBytes, onState };
    this._failures = 0;
    this._open();
  }

  /** False when there is no connection: the caller sends its newest wish again when one opens. */
  send(message) {
    if (this._socket.readyState !== WebSocket.OPEN) return false;
    this._socket.send(JSON.stringify(message));
    return true;
  }

  _open() {
    const socket = (this._socket = new WebSocket(this._url));
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this._failures = 0;
      this._on.onState("open");
    };
    socket.onmessage = ({ data }) => {
      if (typeof data === "string") this._on.onText(JSON.parse(data));
      else this._on.onBytes(data);
    };
    socket.onclose = () => {
      this._on.onState("lost");
      setTimeout(() => this._open(), Math.min(4000, 250 * 2 ** this._failures++));
    };
  }
}
