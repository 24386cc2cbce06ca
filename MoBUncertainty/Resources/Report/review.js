// The review page: regions, slices, clicks and verdicts. Alone it keeps what the reader says and saves it as a file; served
// by `mob-uncertainty review --serve` it sends each step there, and shows what comes of it.
"use strict";

const CASE = JSON.parse(document.getElementById("case").textContent);
const $ = (id) => document.getElementById(id);
const VERDICTS = {
  pending: "not decided", accept: "accepted", include: "included", exclude: "excluded", edit: "edited", resolved: "resolved by clicks",
};
// Columns and rows of each picture run along these axes of a crop, (S, A, R) = 0, 1, 2, from their ends to their starts:
// the patient's right is on the left, anterior and superior are at the top.
const PLANES = [
  { name: "axial", normal: 0, rows: 1, columns: 2, letters: "RLAP", axis: "SI" },
  { name: "coronal", normal: 1, rows: 0, columns: 2, letters: "RLSI", axis: "AP" },
  { name: "sagittal", normal: 2, rows: 0, columns: 1, letters: "APSI", axis: "RL" },
];

const state = {
  regions: CASE.regions, clicks: CASE.clicks, counter: CASE.counter, volumes: CASE.volumes, suggestion: null, can_undo: CASE.can_undo, signature: CASE.signature,
};
const past = []; // what offline steps are taken back to
const crops = new Map(); // by region id: decoded voxels
let current = null; // id of the region that is shown
let cursor = [0, 0, 0]; // voxel of its crop that the three planes run through
let mode = "look";
let shape = "stroke"; // or lasso, or box
let stroke = null; // {index, voxels, label, extent} while the pointer is down; corners of outlines are not rounded
let unsaved = false;
let busy = Promise.resolve();

// Data

async function inflate(text) {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function cropOf(id) {
  const stored = CASE.crops[id];
  if (!crops.has(id) && stored) {
    const size = stored.shape[0] * stored.shape[1] * stored.shape[2];
    const [ct, maps, predicted] = await Promise.all([inflate(stored.ct), inflate(stored.maps), stored.predicted && inflate(stored.predicted)]);
    const crop = { ...stored, ct, predicted: predicted ?? maps.slice(0, size) };
    crops.set(id, Object.assign(crop, split(maps, size)));
  }
  return crops.get(id);
}

function split(maps, size) {
  return { labels: maps.subarray(0, size), heat: maps.subarray(size, 2 * size), mask: maps.subarray(2 * size) };
}

function toRas(crop, [k, j, i]) {
  return crop.ijk_to_ras.slice(0, 3).map((row) => row[0] * i + row[1] * j + row[2] * k + row[3]);
}

function toVoxel(crop, ras) {
  const m = crop.ras_to_ijk;
  return [2, 1, 0].map((row) => m[row][0] * ras[0] + m[row][1] * ras[1] + m[row][2] * ras[2] + m[row][3]);
}

function isMasked(crop, voxel) {
  const [k, j, i] = voxel.map(Math.round);
  return voxel.every((value, axis) => value > -0.5 && value < crop.shape[axis] - 0.5) && crop.mask[(k * crop.shape[1] + j) * crop.shape[2] + i] > 0;
}

// Whether a stroke runs through a region, between its points too, or an outline has some of it inside.
function crosses(crop, { points_ras, extent }) {
  const way = points_ras.map((point) => toVoxel(crop, point));
  if (extent === "outline") return encloses(crop, way);
  return way.some((end, n) => {
    const start = way[Math.max(n - 1, 0)], steps = 1 + Math.ceil(2 * Math.max(...end.map((value, axis) => Math.abs(value - start[axis]))));
    for (let step = 0; step <= steps; step++)
      if (isMasked(crop, start.map((value, axis) => value + (step / steps) * (end[axis] - value)))) return true;
    return false;
  });
}

function encloses(crop, corners) {
  const spread = (axis) => Math.max(...corners.map((corner) => corner[axis])) - Math.min(...corners.map((corner) => corner[axis]));
  const plane = [...PLANES].sort((a, b) => spread(a.normal) - spread(b.normal))[0], voxel = [0, 0, 0], area = outlined(corners, plane);
  voxel[plane.normal] = corners[0][plane.normal];
  for (let row = 0; row < crop.shape[plane.rows]; row++)
    for (let column = 0; column < crop.shape[plane.columns]; column++) {
      [voxel[plane.rows], voxel[plane.columns]] = [row, column];
      if (isMasked(crop, voxel) && MEASURE.isPointInPath(area, column, row, "evenodd")) return true;
    }
  return false;
}

function outlined(corners, plane, place = (corner) => [corner[plane.columns], corner[plane.rows]]) {
  const path = new Path2D();
  corners.forEach((corner) => path.lineTo(...place(corner)));
  path.closePath();
  return path;
}

const MEASURE = document.createElement("canvas").getContext("2d");
const whole = (voxel) => voxel.map((value) => Math.ceil(value - 0.5));
const drawn = () => state.clicks.filter((click) => click.extent !== "lock");
const lockOf = (label) => state.clicks.find((click) => click.extent === "lock" && click.label === label);
const region = (id) => state.regions.find((each) => each.id === id);
const colourOf = (value) => CASE.labels.find((label) => label.value === value)?.colour ?? "#fff";
const labelName = (value) => CASE.labels.find((label) => label.value === value)?.title ?? "not organ";
const shown = () => crops.get(current);
const number = (value, digits = 0) => value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }).replace("-", "\u2212");

// Drawing

function frame(canvas, crop, plane) {
  const mm = [crop.shape[plane.columns] * crop.spacing[plane.columns], crop.shape[plane.rows] * crop.spacing[plane.rows]];
  const scale = canvas.width / Math.max(...mm);
  return {
    dx: crop.spacing[plane.columns] * scale, dy: crop.spacing[plane.rows] * scale,
    left: (canvas.width - mm[0] * scale) / 2, top: (canvas.height - mm[1] * scale) / 2,
    columns: crop.shape[plane.columns], rows: crop.shape[plane.rows],
  };
}

function slice(crop, plane, volume) {
  const [, h, w] = crop.shape, f = { columns: crop.shape[plane.columns], rows: crop.shape[plane.rows] };
  const stride = [h * w, w, 1], out = new Uint8Array(f.columns * f.rows), base = cursor[plane.normal] * stride[plane.normal];
  for (let y = 0, n = 0; y < f.rows; y++)
    for (let x = 0; x < f.columns; x++, n++)
      out[n] = volume[base + (f.rows - 1 - y) * stride[plane.rows] + (f.columns - 1 - x) * stride[plane.columns]];
  return out;
}

function paint(context, f, rgba) {
  const image = new ImageData(rgba, f.columns, f.rows), small = new OffscreenCanvas(f.columns, f.rows);
  small.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingQuality = "high";
  context.drawImage(small, f.left, f.top, f.columns * f.dx, f.rows * f.dy);
}

// Lines between the centres of voxels inside and outside (marching squares at one half).
function outline(context, f, inside, style) {
  const at = (x, y) => (x >= 0 && y >= 0 && x < f.columns && y < f.rows && inside(y * f.columns + x) ? 1 : 0);
  const px = (x) => f.left + (x + 0.5) * f.dx, py = (y) => f.top + (y + 0.5) * f.dy;
  context.beginPath();
  for (let y = -1; y < f.rows; y++)
    for (let x = -1; x < f.columns; x++) {
      const a = at(x, y), b = at(x + 1, y), c = at(x + 1, y + 1), d = at(x, y + 1), ends = [];
      if (a !== b) ends.push([px(x + 0.5), py(y)]);
      if (b !== c) ends.push([px(x + 1), py(y + 0.5)]);
      if (c !== d) ends.push([px(x + 0.5), py(y + 1)]);
      if (d !== a) ends.push([px(x), py(y + 0.5)]);
      for (let n = 0; n + 1 < ends.length; n += 2) {
        context.moveTo(...ends[n]);
        context.lineTo(...ends[n + 1]);
      }
    }
  context.setLineDash(style.dash ?? []);
  for (const [width, colour] of [[style.width + 2, "rgba(0, 0, 0, 0.6)"], [style.width, style.colour]]) {
    context.lineWidth = width * devicePixelRatio;
    context.strokeStyle = colour;
    context.stroke();
  }
  context.setLineDash([]);
}

function draw(index) {
  const canvas = $(`plane-${index}`), plane = PLANES[index], crop = shown(), context = canvas.getContext("2d");
  const side = Math.round(canvas.clientWidth * devicePixelRatio) || 300;
  if (canvas.width !== side) canvas.width = canvas.height = side;
  context.fillStyle = "#000";
  context.fillRect(0, 0, side, side);
  if (!crop) return;
  const f = frame(canvas, crop, plane), grey = slice(crop, plane, crop.ct), rgba = new Uint8ClampedArray(4 * grey.length);
  for (let n = 0; n < grey.length; n++) rgba.set([grey[n], grey[n], grey[n], 255], 4 * n);
  paint(context, f, rgba);
  if ($("heat").checked) paint(context, f, warm(slice(crop, plane, crop.heat)));
  const labels = slice(crop, plane, crop.labels), before = slice(crop, plane, crop.predicted), mask = slice(crop, plane, crop.mask);
  outline(context, f, (n) => mask[n], { width: 1.2, colour: CASE.colours.region });
  for (const label of CASE.labels) {
    if (before.some((value, n) => value !== labels[n] && (value === label.value || labels[n] === label.value)))
      outline(context, f, (n) => before[n] === label.value, { width: 1, colour: "#fff", dash: [4 * devicePixelRatio, 4 * devicePixelRatio] });
    outline(context, f, (n) => labels[n] === label.value, { width: 1.8, colour: label.colour });
  }
  drawMarks(context, f, crop, plane);
  letters(context, plane, side);
  const place = toRas(crop, cursor)[2 - plane.normal];
  $(`caption-${index}`).textContent = `${plane.name}, ${plane.axis[place < 0 ? 1 : 0]} ${Math.abs(place).toFixed(1)} mm`;
  const slider = $(`slice-${index}`);
  slider.max = crop.shape[plane.normal] - 1;
  slider.value = cursor[plane.normal];
}

function warm(heat) {
  const rgba = new Uint8ClampedArray(4 * heat.length), { threshold, top, colours } = CASE.heat;
  for (let n = 0; n < heat.length; n++) {
    const value = (heat[n] / 255) * top, fraction = Math.min(Math.max((value - threshold) / (top - threshold), 0), 1);
    const opacity = 0.7 * Math.min(Math.max((2 * value) / threshold - 1.5, 0), 1);
    rgba.set([...colours[Math.round(fraction * (colours.length - 1))], 255 * opacity], 4 * n);
  }
  return rgba;
}

function pixel(f, crop, plane, voxel) {
  const column = crop.shape[plane.columns] - 1 - voxel[plane.columns], row = crop.shape[plane.rows] - 1 - voxel[plane.rows];
  return [f.left + (column + 0.5) * f.dx, f.top + (row + 0.5) * f.dy];
}

function drawMarks(context, f, crop, plane) {
  const near = (voxel) => Math.abs(voxel[plane.normal] - cursor[plane.normal]) < 0.75;
  const [cx, cy] = pixel(f, crop, plane, cursor), end = context.canvas.width, gap = 12 * devicePixelRatio;
  context.strokeStyle = "rgba(255, 255, 255, 0.35)";
  context.lineWidth = devicePixelRatio;
  context.beginPath();
  for (const [x1, y1, x2, y2] of [[0, cy, cx - gap, cy], [cx + gap, cy, end, cy], [cx, 0, cx, cy - gap], [cx, cy + gap, cx, end]]) {
    context.moveTo(x1, y1);
    context.lineTo(x2, y2);
  }
  context.stroke();
  const marks = drawn().map((click) => [click.points_ras.map((point) => toVoxel(crop, point)), click]);
  if (stroke) marks.push([stroke.voxels, stroke]);
  for (const [corners, click] of marks.filter(([corners, { extent }]) => extent === "outline" && corners.every(near))) {
    const line = outlined(corners, plane, (corner) => pixel(f, crop, plane, corner));
    for (const [width, colour] of [[4, click.conflict ? "#000" : "#fff"], [2, click.label ? colourOf(click.label) : CASE.colours.other]]) {
      context.lineWidth = width * devicePixelRatio;
      context.strokeStyle = colour;
      context.stroke(line);
    }
  }
  const dots = marks.flatMap(([voxels, click]) => (click.extent === "outline" ? [] : voxels.map((voxel) => [voxel, click])));
  for (const [voxel, click] of dots.filter(([voxel]) => near(voxel))) {
    context.beginPath();
    context.arc(...pixel(f, crop, plane, voxel), 4.5 * devicePixelRatio, 0, 2 * Math.PI);
    context.fillStyle = click.label ? colourOf(click.label) : CASE.colours.other;
    context.fill();
    context.lineWidth = 1.5 * devicePixelRatio;
    context.strokeStyle = click.conflict ? "#000" : "#fff";
    context.stroke();
  }
  if (state.suggestion?.region_id === current && near(toVoxel(crop, state.suggestion.point_ras))) {
    const [x, y] = pixel(f, crop, plane, toVoxel(crop, state.suggestion.point_ras)), arm = 8 * devicePixelRatio;
    context.strokeStyle = "#ffe14d";
    context.lineWidth = 2 * devicePixelRatio;
    context.beginPath();
    for (const [dx, dy] of [[arm, arm], [arm, -arm]]) {
      context.moveTo(x - dx, y - dy);
      context.lineTo(x + dx, y + dy);
    }
    context.stroke();
  }
}

function letters(context, plane, side) {
  const edge = 11 * devicePixelRatio, middle = side / 2;
  context.font = `bold ${13 * devicePixelRatio}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineWidth = 3 * devicePixelRatio;
  context.strokeStyle = "#000";
  context.fillStyle = "#fff";
  for (const [n, [x, y]] of [[edge, middle], [side - edge, middle], [middle, edge], [middle, side - edge]].entries()) {
    context.strokeText(plane.letters[n], x, y);
    context.fillText(plane.letters[n], x, y);
  }
}

// The page as a function of the state

function render() {
  const chosen = region(current), closed = Boolean(state.signature);
  refill($("regions"), state.regions.map(listItem));
  const decided = state.regions.filter((each) => each.verdict !== "pending").length;
  const clicks = drawn().length === 1 ? "1 click" : `${drawn().length} clicks`;
  const [before, now] = state.counter;
  $("count").textContent = CASE.served
    ? `${clicks}, expected error ${before} → ${now}`
    : `${clicks}, ${decided} of ${state.regions.length} regions decided`;
  $("count-more").textContent = CASE.served
    ? `${decided} of ${state.regions.length} regions decided`
    : `Outlines are as ${CASE.origin}; clicks act when the decisions are applied.`;
  $("volumes").textContent = state.volumes.join("; "); // alone as predicted, like the outlines
  for (const button of document.querySelectorAll("[data-mode]")) button.setAttribute("aria-pressed", String(button.dataset.mode === mode));
  for (const button of document.querySelectorAll("[data-shape]")) button.setAttribute("aria-pressed", String(mode !== "look" && button.dataset.shape === shape));
  $("lock")?.setAttribute("aria-pressed", String(Boolean(lockOf(label()))));
  for (const button of document.querySelectorAll("[data-verdict]")) {
    button.setAttribute("aria-pressed", String(chosen?.verdict === button.dataset.verdict));
    button.disabled = !chosen || closed;
  }
  for (const canvas of document.querySelectorAll("canvas")) canvas.classList.toggle("marking", mode !== "look");
  $("undo").disabled = !(CASE.served ? state.can_undo : past.length);
  $("picture").hidden = !CASE.crops[current];
  $("no-picture").hidden = Boolean(CASE.crops[current]) || !chosen;
  if (chosen) {
    $("title").textContent = `${chosen.rank}. ${where(chosen)}`;
    $("numbers").replaceChildren(...numbers(chosen));
    if (document.activeElement !== $("comment")) $("comment").value = chosen.comment;
  }
  refill($("clicks"), state.clicks.map(clickItem));
  $("no-clicks").hidden = state.clicks.length > 0;
  PLANES.forEach((_, index) => draw(index));
}

function element(tag, text = "", attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// What is the same stays: an item that is replaced while the pointer is down on it is never clicked.
function refill(list, items) {
  items.forEach((item, n) => {
    const old = list.children[n];
    if (!old) list.append(item);
    else if (old.outerHTML !== item.outerHTML) old.replaceWith(item);
  });
  while (list.children.length > items.length) list.lastElementChild.remove();
}

function where(each) {
  const place = [each.organ, each.location].filter(Boolean).join(", ");
  return [place, each.discrepancy].filter(Boolean).join(": ");
}

function listItem(each) {
  const item = element("li", "", { role: "option", tabindex: "-1", "aria-selected": String(each.id === current), "data-id": each.id });
  const words = VERDICTS[each.verdict] + (each.verdict === "include" && CASE.labels.length > 1 ? ` as ${labelName(each.label)}` : "");
  const effect = each.effect ? `, ${number(100 * Math.max(each.effect.fraction, 0))} % of the variance of ${each.effect.measurement}` : "";
  item.append(
    element("span", each.rank, { class: "rank" }),
    element("strong", where(each)),
    element("span", words, { class: `verdict ${each.verdict}` }),
    element("span", `expected error ${number(each.expected_error_mm3)} mm³ of ${number(each.volume_mm3)} mm³${effect}`, { class: "error" }),
  );
  item.addEventListener("click", () => show(each.id));
  return item;
}

function numbers(each) {
  const [r, a, s] = each.centroid_ras;
  const facts = [
    ["expected error", `${number(each.expected_error_mm3)} mm³`], ["volume", `${number(each.volume_mm3)} mm³`],
    ["extent", `${number(each.extent_mm)} mm`], ["mean variance", number(each.mean_variance, 3)],
    ["mean probability", number(each.mean_probability, 2)], [`${CASE.origin} as organ`, `${number(100 * each.inside_fraction)} %`],
    ["R, A, S", `${number(r)}, ${number(a)}, ${number(s)} mm`],
  ];
  return facts.map(([name, value]) => {
    const item = element("li", `${name} `);
    item.append(element("b", value));
    return item;
  });
}

function clickItem(click) {
  const item = element("li", "", { "data-id": click.id }), [r, a, s] = click.points_ras[0] ?? [];
  const dot = element("span", "", { class: "dot" });
  dot.style.background = click.label ? colourOf(click.label) : CASE.colours.other;
  const locks = click.extent === "lock", kind = click.points_ras.length > 1 ? `, ${click.extent}` : "";
  const what = labelName(click.label) + (locks ? " is locked" : `${kind} at R ${number(r)}, A ${number(a)}, S ${number(s)} mm`);
  const where = element(locks ? "span" : "button", what, { class: "where", ...(locks ? {} : { type: "button", title: "Show this place" }) });
  if (!locks) where.addEventListener("click", () => goTo(click.points_ras[0], click.region));
  const remove = element("button", "×", { class: "remove", type: "button", "aria-label": `Remove: ${what}`, title: "Remove this click" });
  remove.disabled = Boolean(state.signature);
  remove.addEventListener("click", () => step({ action: "remove", id: click.id }));
  item.append(dot, where, ...(click.conflict ? [element("span", "in conflict", { class: "conflict", title: "Contradicted by the other clicks" })] : []), remove);
  return item;
}

function say(text, problem = false) {
  $("message").textContent = text;
  $("message").classList.toggle("problem", problem);
}

// Steps

async function show(id) {
  if (id !== current) stroke = null; // its voxels are those of another crop
  current = id;
  const crop = await cropOf(id);
  if (current !== id) return;
  if (crop) cursor = clamp(crop, toVoxel(crop, region(id).focus_ras).map(Math.round));
  $("regions").querySelector(`[data-id="${CSS.escape(id)}"]`)?.scrollIntoView({ block: "nearest" });
  render();
}

function clamp(crop, voxel) {
  return voxel.map((value, axis) => Math.min(Math.max(value, 0), crop.shape[axis] - 1));
}

async function goTo(point, id) {
  if (id && id !== current && CASE.crops[id]) await show(id);
  const crop = shown();
  if (crop) cursor = clamp(crop, toVoxel(crop, point).map(Math.round));
  render();
}

function step(action) {
  if (state.signature) return say("The review is signed off.", true);
  busy = busy.then(() => (CASE.served ? send(action) : keep(action))).catch((error) => say(error.message, true));
  return busy;
}

async function keep(action) {
  unsaved = true;
  if (action.action === "undo") {
    if (past.length) Object.assign(state, JSON.parse(past.pop()));
    return render();
  }
  past.push(JSON.stringify({ regions: state.regions, clicks: state.clicks }));
  if (action.action === "click" || action.action === "lock") {
    const last = Math.max(0, ...state.clicks.map((click) => Number(click.id.slice(1))));
    const { points_ras = [], label, region: where = null, extent = "lock" } = action;
    const click = { id: `c${last + 1}`, points_ras, label, region: where, extent, time: new Date().toISOString() };
    state.clicks = [...state.clicks, click];
    await reopen(click);
  } else if (action.action === "remove") {
    const removed = state.clicks.find((click) => click.id === action.id);
    state.clicks = state.clicks.filter((click) => click !== removed);
    await reopen(removed);
  } else if (action.action === "decide") {
    const { verdict, label } = action, held = state.clicks.map((click) => click.id);
    change(action.region, { verdict, label: verdict === "include" ? label : null, held });
  } else if (action.action === "comment") {
    change(action.region, { comment: action.text });
  }
  render();
}

// A click in a decided region opens it again, and so does one that is removed there.
async function reopen(click) {
  for (const { id, verdict } of state.regions) {
    const crop = verdict === "pending" ? null : await cropOf(id);
    if (crop && crosses(crop, click)) change(id, { verdict: "pending", label: null });
  }
}

function change(id, values) {
  state.regions = state.regions.map((each) => (each.id === id ? { ...each, ...values } : each));
}

async function send(action) {
  const answer = await ask("step", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(action) });
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.error);
  const changed = said.maps;
  delete said.maps;
  const made = await Promise.all(Object.entries(changed).map(async ([id, maps]) => [await cropOf(id), await inflate(maps)]));
  Object.assign(state, said); // only now: numbers and pictures change together
  for (const [crop, maps] of made) Object.assign(crop, split(maps, crop.ct.length));
  if (action.action !== "suggest") unsaved = false; // it is on the disk
  say(said.message);
  if (!region(current) && state.regions.length) await show(state.regions[0].id); // what was shown is listed no more
  render();
}

async function ask(path, how) {
  const answer = await fetch(path, how).catch(() => null);
  if (!answer || answer.status === 404) throw new Error("The server has stopped; start it again with mob-uncertainty review --serve.");
  return answer;
}

async function save() {
  await busy;
  let text, signed;
  if (CASE.served) {
    text = await (await ask("decisions")).text();
    signed = Boolean(state.signature);
  } else {
    [text, signed] = decisions();
  }
  const link = element("a", "", { download: "decisions.json", href: URL.createObjectURL(new Blob([text], { type: "application/json" })) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  unsaved = false;
  say(`decisions.json is saved${signed ? ", signed" : ", not signed"}. Apply it with: mob-uncertainty review RESULTS --decisions decisions.json`);
  const found = CASE.suitability;
  if (found?.sentence) $("message").append(element("div", found.sentence, { class: `card suitability ${found.level.replace(" ", "-")}` }));
}

function decisions() {
  const open = state.regions.filter((each) => each.verdict === "pending").length, name = $("reader").value.trim();
  const said = state.regions.filter((each) => each.verdict !== "pending" || each.comment);
  const labelOf = (value) => CASE.labels.find((label) => label.value === value)?.name ?? "background";
  const content = {
    schema: CASE.schema, schema_version: CASE.schema_version, predicted_sha256: CASE.predicted_sha256,
    regions: said.map((each) => ({
      rank: each.rank, verdict: each.verdict, comment: each.comment, region: { centroid_ras: each.centroid_ras },
      ...(each.verdict === "include" && each.label ? { label: labelOf(each.label) } : {}),
      // What was decided before some of the clicks is not changed by them.
      ...(each.verdict !== "pending" ? { clicks: each.held.filter((id) => state.clicks.some((click) => click.id === id)) } : {}),
    })),
    clicks: state.clicks.map(({ id, points_ras, label, time, extent, region: where }) => ({
      id, points_ras, label: labelOf(label), time, extent, region: region(where)?.rank ?? null,
    })),
    ...(name && !open ? { signature: { name, time: new Date().toISOString() } } : {}),
  };
  return [JSON.stringify(content, null, 2) + "\n", Boolean(content.signature)];
}

// Input

function voxelAt(event, index) {
  const canvas = $(`plane-${index}`), plane = PLANES[index], crop = shown(), f = frame(canvas, crop, plane);
  const box = canvas.getBoundingClientRect(), ratio = canvas.width / box.width;
  const column = ((event.clientX - box.left) * ratio - f.left) / f.dx, row = ((event.clientY - box.top) * ratio - f.top) / f.dy;
  if (column < 0 || row < 0 || column >= f.columns || row >= f.rows) return null;
  const voxel = [...cursor];
  voxel[plane.columns] = f.columns - 0.5 - column;
  voxel[plane.rows] = f.rows - 0.5 - row;
  return shape === "stroke" || mode === "look" ? whole(voxel) : voxel;
}

function label() {
  return CASE.labels.length > 1 ? Number($("label").value) : CASE.labels[0].value;
}

function drag(voxel) {
  const start = stroke.voxels[0], { rows, columns } = PLANES[stroke.index];
  if (shape === "box") stroke.voxels = [start, start.with(columns, voxel[columns]), voxel, start.with(rows, voxel[rows])];
  else stroke.voxels.push(voxel);
  if (shape !== "stroke" && stroke.voxels.length > 2) stroke.extent = "outline";
}

function listen(index) {
  const canvas = $(`plane-${index}`);
  canvas.addEventListener("pointerdown", (event) => {
    const voxel = shown() && event.button === 0 ? voxelAt(event, index) : null;
    if (!voxel) return;
    canvas.setPointerCapture(event.pointerId);
    stroke = { index, label: mode === "other" ? 0 : label(), voxels: [voxel], extent: "stroke", look: mode === "look" };
    if (stroke.look) cursor = voxel;
    render();
  });
  canvas.addEventListener("pointermove", (event) => {
    const voxel = stroke?.index === index ? voxelAt(event, index) : null;
    if (!voxel) return;
    if (stroke.look) cursor = voxel;
    else if (String(whole(stroke.voxels.at(-1))) !== String(whole(voxel))) drag(voxel);
    render();
  });
  canvas.addEventListener("pointerup", () => {
    const done = stroke;
    stroke = null;
    if (done && !done.look) {
      cursor = whole(done.voxels[0]);
      const crop = shown(), { label, extent } = done, points_ras = done.voxels.map((voxel) => toRas(crop, voxel));
      step({ action: "click", points_ras, label, extent, region: extent === "stroke" && isMasked(crop, cursor) ? current : null });
    }
    render();
  });
  canvas.addEventListener("pointercancel", () => { stroke = null; render(); });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    move(index, event.deltaY < 0 ? 1 : -1);
  }, { passive: false });
  $(`slice-${index}`).addEventListener("input", (event) => move(index, Number(event.target.value) - cursor[PLANES[index].normal]));
}

function move(index, by) {
  if (!shown()) return;
  cursor[PLANES[index].normal] += by;
  cursor = clamp(shown(), cursor);
  render();
}

function setMode(wanted) {
  mode = wanted;
  render();
}

function setShape(wanted) {
  shape = mode !== "look" && shape === wanted ? "stroke" : wanted;
  if (mode === "look") mode = "organ";
  render();
}

function lock() {
  const held = lockOf(label());
  step(held ? { action: "remove", id: held.id } : { action: "lock", label: label() });
}

function decide(verdict) {
  const chosen = region(current);
  if (!chosen) return;
  const wanted = chosen.verdict === verdict ? "pending" : verdict;
  step({ action: "decide", region: current, verdict: wanted, label: wanted === "include" ? label() : null });
}

function neighbour(by) {
  const at = state.regions.findIndex((each) => each.id === current);
  const next = state.regions[Math.min(Math.max(at + by, 0), state.regions.length - 1)];
  if (next) show(next.id);
}

async function next() {
  if (CASE.served) {
    await step({ action: "suggest" });
    if (state.suggestion) return show(state.suggestion.region_id).then(() => goTo(state.suggestion.point_ras));
  }
  const open = state.regions.find((each) => each.verdict === "pending" && each.id !== current);
  if (open) show(open.id);
}

// What the panel in Slicer does too has its key there.
const KEYS = {
  v: () => setMode("look"), Escape: () => setMode("look"), o: () => setMode("organ"), l: () => setMode("other"),
  k: () => setShape("lasso"), j: () => setShape("box"),
  a: () => decide("accept"), i: () => decide("include"), x: () => decide("exclude"), u: () => step({ action: "undo" }),
  n: next, p: () => neighbour(-1), ArrowDown: () => neighbour(1), ArrowUp: () => neighbour(-1),
  m: () => { $("heat").checked = !$("heat").checked; render(); },
};

document.addEventListener("keydown", (event) => {
  const slides = event.target.matches("[type=range]") && event.key.startsWith("Arrow");
  const typing = slides || event.target.closest("textarea, input:not([type=checkbox], [type=range]), select");
  const undo = event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey);
  if (typing || event.altKey || ((event.ctrlKey || event.metaKey) && !undo)) return;
  if (event.repeat && !event.key.startsWith("Arrow")) return; // a verdict that is given twice is taken back
  const act = undo ? KEYS.u : KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (act) {
    event.preventDefault();
    act();
  }
});

for (const button of document.querySelectorAll("[data-mode]")) button.addEventListener("click", () => setMode(button.dataset.mode));
for (const button of document.querySelectorAll("[data-shape]")) button.addEventListener("click", () => setShape(button.dataset.shape));
for (const [id, event, act] of [["lock", "click", lock], ["label", "change", render]]) $(id)?.addEventListener(event, act);
for (const button of document.querySelectorAll("[data-verdict]")) button.addEventListener("click", () => decide(button.dataset.verdict));
$("next").addEventListener("click", next);
$("undo").addEventListener("click", () => step({ action: "undo" }));
$("save").addEventListener("click", () => save().catch((error) => say(error.message, true)));
$("heat").addEventListener("change", render);
$("comment").addEventListener("input", () => { unsaved = true; });
$("comment").addEventListener("change", (event) => current && step({ action: "comment", region: current, text: event.target.value }));
PLANES.forEach((_, index) => listen(index));
for (const each of document.querySelectorAll("[data-colour]")) each.style.background = each.dataset.colour; // the page allows no style attributes
addEventListener("resize", render);
addEventListener("beforeunload", (event) => { if (unsaved) event.preventDefault(); });

if (state.regions.length) show(state.regions[0].id);
else render();
