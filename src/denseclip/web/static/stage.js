// The picture and what lies over it.

const MOST = 1.6e6; // pixels painted; larger pictures are shown smaller

// "#rrggbb" as the pixel of an ImageData, opaque.
const pixelOf = (hex) => {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
};

export class Stage {
  constructor(root) {
    this.root = root;
    [this.base, this.over] = root.querySelectorAll("canvas");
    this.marker = root.querySelector("#marker");
    this.size = null; // [height, width] of the picture itself
  }

  async show(blob, height, width) {
    const scale = Math.min(1, Math.sqrt(MOST / (height * width)));
    const bitmap = await createImageBitmap(blob);
    this.size = [height, width];
    this.root.style.setProperty("--ratio", width / height);
    for (const canvas of [this.base, this.over]) {
      canvas.width = Math.max(1, Math.round(width * scale));
      canvas.height = Math.max(1, Math.round(height * scale));
    }
    this.base.getContext("2d").drawImage(bitmap, 0, 0, this.base.width, this.base.height);
    bitmap.close();
    this.mark(null);
  }

  clear() {
    this.over.getContext("2d").clearRect(0, 0, this.over.width, this.over.height);
  }

  // A plane of ids under a color each; null is clear. `only`: the one class that stays bright.
  paintMask(plane, colors, only = null) {
    const table = colors.map((hex) => (hex === null ? 0 : pixelOf(hex)));
    if (only !== null) {
      for (let id = 0; id < table.length; id++) if (id !== only) table[id] = 0xb0202020;
    }
    this.#paint(plane, Uint32Array.from(table), true);
  }

  paintHeat(levels, colors) {
    this.#paint(levels, Uint32Array.from(colors.map(pixelOf)), false);
  }

  #paint(plane, table, edges) {
    const { width, height } = this.over;
    const [rows, columns] = this.size;
    const context = this.over.getContext("2d");
    const image = context.createImageData(width, height);
    const out = new Uint32Array(image.data.buffer);
    const across = Int32Array.from({ length: width }, (_, x) => Math.floor(((x + 0.5) * columns) / width));
    let above = null;
    for (let y = 0; y < height; y++) {
      const start = Math.floor(((y + 0.5) * rows) / height) * columns;
      for (let x = 0; x < width; x++) {
        const id = plane[start + across[x]];
        const edge =
          edges && ((x > 0 && plane[start + across[x - 1]] !== id) || (above !== null && plane[above + across[x]] !== id));
        out[y * width + x] = edge ? 0xffffffff : table[id];
      }
      above = start;
    }
    context.putImageData(image, 0, 0);
  }

  // The picture's [row, column] under a pointer, or null.
  spot(event) {
    if (this.size === null) return null;
    const box = this.base.getBoundingClientRect();
    const [rows, columns] = this.size;
    const row = Math.floor(((event.clientY - box.top) / box.height) * rows);
    const column = Math.floor(((event.clientX - box.left) / box.width) * columns);
    return row >= 0 && column >= 0 && row < rows && column < columns ? [row, column] : null;
  }

  mark(spot) {
    this.marker.hidden = spot === null;
    if (spot === null) return;
    this.marker.style.top = `${(100 * (spot[0] + 0.5)) / this.size[0]}%`;
    this.marker.style.left = `${(100 * (spot[1] + 0.5)) / this.size[1]}%`;
  }
}
