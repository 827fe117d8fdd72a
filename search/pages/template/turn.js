// Figures of points in three dimensions that a reader can turn.
'use strict';
for (const figure of document.querySelectorAll('figure.turn')) {
  const canvas = figure.querySelector('canvas'), key = figure.querySelector('.key');
  const data = JSON.parse(figure.querySelector('script').textContent);
  const marks = [...'\u25cf\u25a0\u25b2\u25c6\u2716\u25bc\u271a\u25cb\u25a1\u25b3'];
  const names = ['c1', 'c2', 'c3', 'c4', 'c5', 'ink', 'muted'];
  let yaw = 0.6, pitch = 0.4, only = -1, held = null;
  const colours = () => {
    const style = getComputedStyle(document.documentElement);
    return names.map(name => style.getPropertyValue('--' + name).trim());
  };
  const draw = () => {
    const scale = window.devicePixelRatio || 1, box = canvas.getBoundingClientRect();
    canvas.width = box.width * scale; canvas.height = box.height * scale;
    const pen = canvas.getContext('2d'), paint = colours(), half = Math.min(box.width, box.height) / 2;
    pen.scale(scale, scale); pen.translate(box.width / 2, box.height / 2);
    pen.textAlign = 'center'; pen.textBaseline = 'middle';
    const cy = Math.cos(yaw), sy = Math.sin(yaw), cp = Math.cos(pitch), sp = Math.sin(pitch);
    const turned = ([x, y, z]) => {
      const u = cy * x + sy * z, w = cy * z - sy * x, v = cp * y - sp * w, d = sp * y + cp * w;
      const near = 6 / (6 + d);
      return [half * 0.52 * u * near, -half * 0.52 * v * near, d, near];
    };
    pen.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue('--grid');
    const corner = i => [(i & 1) * 2 - 1, (i >> 1 & 1) * 2 - 1, (i >> 2 & 1) * 2 - 1];
    for (let i = 0; i < 8; i++) for (const bit of [1, 2, 4]) if (!(i & bit)) {
      const a = turned(corner(i)), b = turned(corner(i | bit));
      pen.beginPath(); pen.moveTo(a[0], a[1]); pen.lineTo(b[0], b[1]); pen.stroke();
    }
    const all = data.points.map((point, i) => [...turned(point), data.labels[i]]).sort((a, b) => b[2] - a[2]);
    for (const [x, y, , near, label] of all) {
      pen.globalAlpha = only < 0 || only === label ? Math.min(1, 0.35 + 0.5 * near) : 0.08;
      pen.fillStyle = paint[label % paint.length];
      pen.font = `${(9 * near).toFixed(1)}px sans-serif`;
      pen.fillText(marks[label % marks.length], x, y);
    }
  };
  data.classes.forEach((name, label) => {
    const button = document.createElement('button');
    button.type = 'button';
    const mark = document.createElement('span');
    mark.textContent = marks[label % marks.length];
    mark.style.color = `var(--${names[label % names.length]})`;
    button.append(mark, ' ' + name);
    button.setAttribute('aria-pressed', 'false');
    button.onclick = () => {
      only = only === label ? -1 : label;
      [...key.children].forEach((other, i) => other.setAttribute('aria-pressed', String(i === only)));
      draw();
    };
    key.append(button);
  });
  canvas.onpointerdown = event => { held = event; canvas.setPointerCapture(event.pointerId); };
  canvas.onpointerup = canvas.onpointercancel = () => { held = null; };
  canvas.onpointermove = event => {
    if (!held) return;
    yaw += (event.clientX - held.clientX) * 0.01; pitch += (event.clientY - held.clientY) * 0.01;
    held = event; draw();
  };
  canvas.onkeydown = event => {
    const step = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[event.key];
    if (!step) return;
    yaw += step[0]; pitch += step[1]; event.preventDefault(); draw();
  };
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
  addEventListener('resize', draw);
  draw();
}
