// The picture and what lies over it; zoom and pan.

const MOST = 1.6e6; // pixels painted; larger pictures are shown smaller
const CLOSEST = 16; // how many times larger than whole

// "#rrggbb" as the pixel of an ImageData, opaque.
const pixelOf = (hex) => {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
};

// Lays a plane (rows x columns) of ids or levels over a canvas, in the colors of a table.
export function paint(canvas, plane, [rows, columns], table, edges = false) {
  const { width, height } = canvas;
  const context = canvas.getContext("2d");
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

export const heatTable = (colors) => Uint32Array.from(colors.map(pixelOf));

export class Stage {
  constructor(root) {
    this.root = root;
    this.frame = root.querySelector("#frame");
    this.view = root.querySelector("#view");
    [this.base, this.muted, this.over, this.names] = root.querySelectorAll("canvas");
    this.marker = root.querySelector("#marker");
    this.size = null; // [height, width] of the picture itself
    this.spotted = null; // the marked pixel
    this.scale = 1;
    this.shift = [0, 0]; // of the view in the frame, in pixels of the screen
    this.pointers = new Map();
    this.moved = 0; // how far the pointer went since it was pressed: a click or a drag
    this.#listen();
  }

  async show(blob, height, width) {
    const scale = Math.min(1, Math.sqrt(MOST / (height * width)));
    const bitmap = await createImageBitmap(blob);
    this.size = [height, width];
    this.root.style.setProperty("--ratio", width / height);
    for (const canvas of [this.base, this.muted, this.over, this.names]) {
      canvas.width = Math.max(1, Math.round(width * scale));
      canvas.height = Math.max(1, Math.round(height * scale));
    }
    this.base.getContext("2d", { willReadFrequently: true }).drawImage(bitmap, 0, 0, this.base.width, this.base.height);
    bitmap.close();
    this.mark(null);
    this.fit();
  }

  clear() {
    for (const canvas of [this.muted, this.over, this.names]) canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
  }

  // A plane of ids under a color each; null is clear. names: {name, x, y, size} in the picture's pixels. `only`: the
  // one class that stays bright.
  paintMask(plane, colors, names, only = null) {
    const table = colors.map((hex) => (hex === null ? 0 : pixelOf(hex)));
    if (only !== null) {
      for (let id = 0; id < table.length; id++) if (id !== only) table[id] = 0xb0202020;
    }
    this.clear();
    paint(this.over, plane, this.size, Uint32Array.from(table), true);
    const under = this.muted.getContext("2d"); // nearly gray where it is painted, so that tints have their hue
    under.drawImage(this.over, 0, 0);
    under.globalCompositeOperation = "source-in";
    under.filter = "saturate(0.3)";
    under.drawImage(this.base, 0, 0);
    under.filter = "none";
    under.globalCompositeOperation = "source-over";
    if (only === null) this.#write(names);
  }

  #write(names) {
    const context = this.names.getContext("2d");
    const scale = this.names.width / this.size[1];
    Object.assign(context, { textAlign: "center", textBaseline: "middle", lineJoin: "round", fillStyle: "#fff", strokeStyle: "#000" });
    for (const { name, x, y, size } of names) {
      context.font = `${size * scale}px "DejaVu Sans", system-ui, sans-serif`;
      context.lineWidth = (size * scale) / 4;
      context.strokeText(name, x * scale, y * scale, 1.15 * size * scale * name.length);
      context.fillText(name, x * scale, y * scale, 1.15 * size * scale * name.length);
    }
  }

  paintHeat(levels, colors) {
    this.clear();
    paint(this.over, levels, this.size, heatTable(colors));
  }

  // The mean color [r, g, b] of the picture under each of `count` ids.
  under(plane, count) {
    const { width, height } = this.base;
    const pixels = this.base.getContext("2d").getImageData(0, 0, width, height).data;
    const sums = Array.from({ length: count }, () => [0, 0, 0, 0]);
    const [rows, columns] = this.size;
    for (let y = 0; y < height; y += 2) {
      const start = Math.floor(((y + 0.5) * rows) / height) * columns;
      for (let x = 0; x < width; x += 2) {
        const sum = sums[plane[start + Math.floor(((x + 0.5) * columns) / width)]];
        if (sum === undefined) continue;
        const at = 4 * (y * width + x);
        for (let c = 0; c < 3; c++) sum[c] += pixels[at + c];
        sum[3]++;
      }
    }
    return sums.map(([r, g, b, n]) => {
      return n === 0 ? [128, 128, 128] : [r, g, b].map((part) => Math.round(part / n));
    });
  }

  // ---- points -------------------------------------------------------------------------------------------------

  // The picture's [row, column] under a pointer, or null.
  spot(event) {
    if (this.size === null) return null;
    const box = this.base.getBoundingClientRect();
    const [rows, columns] = this.size;
    const [x, y] = [event.clientX, event.clientY].map((at) => Math.floor(at) + 0.5); // clicks come rounded down
    const row = Math.floor(((y - box.top) / box.height) * rows);
    const column = Math.floor(((x - box.left) / box.width) * columns);
    return row >= 0 && column >= 0 && row < rows && column < columns ? [row, column] : null;
  }

  mark(spot) {
    this.spotted = spot;
    this.marker.hidden = spot === null;
    if (spot === null) return;
    this.marker.style.top = `${(100 * (spot[0] + 0.5)) / this.size[0]}%`;
    this.marker.style.left = `${(100 * (spot[1] + 0.5)) / this.size[1]}%`;
  }

  // Moves the marked point by steps of a fiftieth of the picture, `fine`: of one pixel; keeps it in sight.
  step(down, right, fine) {
    if (this.size === null) return;
    const [rows, columns] = this.size;
    const length = fine ? 1 : Math.max(1, Math.round(Math.max(rows, columns) / 50 / this.scale));
    const [row, column] = this.spotted ?? [rows >> 1, columns >> 1];
    const within = (value, size) => Math.min(size - 1, Math.max(0, value));
    this.mark([within(row + down * length, rows), within(column + right * length, columns)]);
    if (this.scale > 1) {
      const [frame, marker] = [this.frame, this.marker].map((one) => one.getBoundingClientRect());
      this.pan(frame.left + frame.width / 2 - marker.left - 9, frame.top + frame.height / 2 - marker.top - 9);
    }
  }

  // ---- zoom and pan -------------------------------------------------------------------------------------------

  // Zooms by a factor around a point of the frame, its middle unless given.
  zoom(factor, x = this.frame.clientWidth / 2, y = this.frame.clientHeight / 2) {
    const scale = Math.min(CLOSEST, Math.max(1, this.scale * factor));
    const by = scale / this.scale;
    this.scale = scale;
    this.shift = [x - by * (x - this.shift[0]), y - by * (y - this.shift[1])];
    this.#place();
  }

  pan(right, down) {
    this.shift = [this.shift[0] + right, this.shift[1] + down];
    this.#place();
  }

  fit() {
    this.scale = 1;
    this.shift = [0, 0];
    this.#place();
  }

  #place() {
    const room = [this.frame.clientWidth, this.frame.clientHeight].map((size) => size * (1 - this.scale));
    this.shift = this.shift.map((value, axis) => Math.min(0, Math.max(room[axis], value)));
    this.view.style.transform = `translate(${this.shift[0]}px, ${this.shift[1]}px) scale(${this.scale})`;
    this.view.style.setProperty("--zoom", this.scale);
    this.root.classList.toggle("zoomed", this.scale > 1);
  }

  #listen() {
    const frame = this.frame;
    const inside = (event) => {
      const box = frame.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    frame.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && this.scale === 1 && event.deltaY > 0) return; // nothing to shrink: the page scrolls
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 400), ...inside(event));
    }, { passive: false });
    frame.addEventListener("pointerdown", (event) => {
      if (event.button > 0) return;
      if (this.pointers.size === 0) this.moved = 0;
      this.pointers.set(event.pointerId, inside(event));
      if (this.scale > 1 || this.pointers.size > 1) frame.setPointerCapture(event.pointerId);
    });
    frame.addEventListener("pointermove", (event) => {
      const before = this.pointers.get(event.pointerId);
      if (before === undefined) return;
      const now = inside(event);
      const [x, y] = [now[0] - before[0], now[1] - before[1]];
      this.moved += Math.hypot(x, y);
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
      this.pointers.set(event.pointerId, now);
      if (other) {
        const apart = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]) || 1;
        this.zoom(apart(now) / apart(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
        this.pan(x / 2, y / 2);
      } else if (this.scale > 1 && this.moved > 4) this.pan(x, y);
    });
    for (const end of ["pointerup", "pointercancel", "pointerleave"]) {
      frame.addEventListener(end, (event) => this.pointers.delete(event.pointerId));
    }
    addEventListener("resize", () => this.#place());
  }
}
