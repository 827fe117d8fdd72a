// What a reader can do with a page: sort, filter and export the tables of trials, and look at one trial at a time.
// Text from a study is only ever set as text. No library, no network.
'use strict';

const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};
const SVG = 'http://www.w3.org/2000/svg';
const shape = (tag, attributes, text) => {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
};

const valueOf = cell => cell.dataset.value !== undefined ? Number(cell.dataset.value) : cell.textContent;
const ordered = (a, b) => typeof a === 'number' && typeof b === 'number' ? a - b :
  typeof a === 'number' ? -1 : typeof b === 'number' ? 1 : a.localeCompare(b, undefined, { numeric: true });

// Words that a row must hold, or conditions on a column, such as lr>0.01.
const test = (filter, names) => {
  const tests = filter.trim().split(/\s+/).filter(Boolean).map(word => {
    const [, name, sign, number] = word.match(/^(.+?)(<=|>=|<|>|=)(-?[\d.]+(?:e-?\d+)?)$/i) || [];
    const column = name === undefined ? -1 : names.findIndex(other => other.toLowerCase().includes(name.toLowerCase()));
    if (column < 0) return row => row.textContent.toLowerCase().includes(word.toLowerCase());
    const holds = { '<': (a, b) => a < b, '>': (a, b) => a > b, '<=': (a, b) => a <= b, '>=': (a, b) => a >= b,
      '=': (a, b) => a === b }[sign];
    return row => holds(parseFloat(valueOf(row.cells[column])), Number(number));
  });
  return row => tests.every(each => each(row));
};

const csv = rows => rows.map(row => row.map(value => {
  // A spreadsheet would run text that begins like a formula.
  const text = typeof value === 'number' ? String(value) : value.replace(/^[=+@\t-]/, "'$&");
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}).join(',')).join('\r\n') + '\r\n';

// A table has `state` and `restore` then: what a reader made of it.
const enliven = (table, study) => {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const names = heads.map(head => head.textContent.trim());
  const filter = make('input', { type: 'search', placeholder: 'filter: failed, lr>0.01', 'aria-label': 'filter trials' });
  const count = make('span', { class: 'count', role: 'status' });
  const save = make('button', { type: 'button' }, 'CSV of what is shown');
  table.parentElement.before(make('div', { class: 'tools' }, filter, save, count));
  const shown = () => [...body.rows].filter(row => !row.hidden);
  const sift = () => {
    const fits = test(filter.value, names);
    for (const row of body.rows) row.hidden = !fits(row);
    count.textContent = `${shown().length} of ${body.rows.length} trial${body.rows.length === 1 ? '' : 's'}`;
  };
  const sort = (column, descending) => {
    heads.forEach((head, i) => head.setAttribute('aria-sort',
      i !== column ? 'none' : descending ? 'descending' : 'ascending'));
    const rows = [...body.rows].map(row => [valueOf(row.cells[column]), row]);
    rows.sort(([a], [b]) => descending && a !== '–' && b !== '–' ? ordered(b, a) : ordered(a, b));
    body.append(...rows.map(([, row]) => row));
  };
  heads.forEach((head, column) => {
    const button = make('button', { type: 'button' }, names[column]);
    button.onclick = () => sort(column, head.getAttribute('aria-sort') === 'ascending');
    head.replaceChildren(button);
  });
  filter.oninput = sift;
  save.onclick = () => {
    const rows = [names, ...shown().map(row => [...row.cells].map(valueOf))];
    const link = make('a', { href: 'data:text/csv;charset=utf-8,' + encodeURIComponent(csv(rows)),
      download: `${study.name}.csv` });
    link.click();
  };
  for (const row of body.rows) {
    const number = make('button', { type: 'button', 'aria-label': `show trial ${row.dataset.trial}` });
    number.append(...row.cells[0].childNodes);
    row.cells[0].append(number);
    row.onclick = () => show(study, row.dataset.trial);
  }
  table.state = () => {
    const sorted = heads.findIndex(head => (head.ariaSort ?? 'none') !== 'none');
    return { filter: filter.value, sorted, descending: heads[sorted]?.ariaSort === 'descending',
      focus: document.activeElement === filter && [filter.selectionStart, filter.selectionEnd] };
  };
  table.restore = state => {
    filter.value = state.filter;
    if (state.sorted >= 0 && heads[state.sorted]) sort(state.sorted, state.descending);
    sift();
    if (state.focus) {
      filter.focus({ preventScroll: true });
      filter.setSelectionRange(...state.focus);
    }
  };
  sift();
};

// Where a chart's marks stand for trials, pointing tells which, and a click shows it.
const tip = document.querySelector('.tip');
const point = (chart, study) => {
  for (const group of chart.querySelectorAll('g.trials')) {
    const numbers = group.dataset.trials.split(' ');
    const marks = numbers.length === 1 ? [group] : [...group.querySelectorAll('use, path')].filter(e => !e.closest('defs'));
    marks.forEach((mark, i) => {
      const number = numbers[i], trial = study.trials[number];
      if (!trial) return;
      mark.classList.add('mark');
      mark.onclick = () => show(study, number);
      mark.onpointermove = event => {
        const lines = [trial.title, ...trial.facts.slice(1).map(([name, text]) => `${name}: ${text}`),
          ...Object.entries(trial.settings).map(([name, text]) => `${name}: ${text}`)];
        tip.textContent = lines.slice(0, 12).join('\n');
        tip.hidden = false;
        const box = tip.getBoundingClientRect();
        tip.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - box.width - 8)) + 'px';
        tip.style.top = (event.clientY + 18 + box.height > innerHeight ? event.clientY - box.height - 10 :
          event.clientY + 18) + 'px';
      };
      mark.onpointerleave = () => { tip.hidden = true; };
    });
  }
};

const list = pairs => make('dl', {}, ...pairs.flatMap(([name, text]) => [make('dt', {}, name), make('dd', {}, text)]));

// A training curve of this trial, over the winner's.
const plot = (name, lines, others) => {
  const width = 320, height = 180, left = 52, bottom = 24, top = 8, scale = name.includes('accuracy') ? 100 : 1;
  const points = [...lines, ...others].flat();
  const [low, high] = [Math.min, Math.max].map(end => end(...points.map(p => p[1])));
  const first = Math.min(...points.map(p => p[0])), last = Math.max(...points.map(p => p[0]));
  const x = epoch => left + (width - left - 8) * (last > first ? (epoch - first) / (last - first) : 0.5);
  const y = value => top + (height - top - bottom) * (high > low ? (high - value) / (high - low) : 0.5);
  const svg = shape('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': name });
  for (const value of high > low ? [low, (low + high) / 2, high] : [low]) {
    svg.append(shape('line', { x1: left, x2: width - 8, y1: y(value), y2: y(value), class: 'rule' }),
      shape('text', { x: left - 6, y: y(value) + 4, 'text-anchor': 'end' }, String(+(scale * value).toPrecision(4))));
  }
  for (const epoch of new Set([first, last])) {
    svg.append(shape('text', { x: x(epoch), y: height - 6, 'text-anchor': 'middle' }, String(epoch)));
  }
  for (const [kind, some] of [['other', others], ['own', lines]]) {
    for (const line of some) {
      svg.append(line.length > 1 ? shape('polyline', { class: kind, points: line.map(p => `${x(p[0])},${y(p[1])}`).join(' ') })
        : shape('circle', { class: kind, cx: x(line[0][0]), cy: y(line[0][1]), r: 3 }));
    }
  }
  return make('figure', {}, svg, make('figcaption', {}, name + (scale === 100 ? ' (%)' : '') + ' by epoch'));
};

const dialog = document.querySelector('dialog');
dialog.onclick = event => { if (event.target === dialog) dialog.close(); };
const show = (study, number) => {
  const trial = study.trials[number], best = study.trials[study.winner];
  tip.hidden = true;
  const close = make('button', { type: 'button', class: 'close' }, 'close');
  close.onclick = () => dialog.close();
  const numbers = Object.keys(study.trials), at = numbers.indexOf(String(number));
  const steps = [['previous', numbers[at - 1]], ['next', numbers[at + 1]]].map(([word, other]) => {
    const button = make('button', { type: 'button' }, word);
    button.disabled = other === undefined;
    button.onclick = () => show(study, other);
    return button;
  });
  const curves = Object.entries(trial.curves).map(([stage, found]) => make('section', {}, make('h3', {}, stage),
    make('div', { class: 'plots' }, ...Object.entries(found).map(([name, lines]) =>
      plot(name, lines, best && best !== trial ? best.curves[stage]?.[name] ?? [] : [])))));
  const over = best && best !== trial && curves.length ? [make('p', {}, 'Dashed: the winner.')] : [];
  dialog.replaceChildren(
    make('header', {}, make('h2', {}, trial.title), ...steps, close), list(trial.facts),
    make('h3', {}, 'Settings of its own'), list(Object.entries(trial.settings)), ...over, ...curves,
    make('details', {}, make('summary', {}, 'Settings that all trials share'), list(Object.entries(study.fixed))));
  if (!dialog.open) dialog.showModal();
};

// Called again for what was added to the page since.
const studies = {}, alive = new WeakSet();
const begin = () => {
  const once = act => element => {
    if (!alive.has(element)) act(element);
    alive.add(element);
  };
  for (const part of document.querySelectorAll('.study')) {
    const study = studies[part.dataset.key] ??= { name: part.dataset.name };
    Object.assign(study, JSON.parse(part.querySelector('script.trials').textContent));
    part.querySelectorAll('table.trials').forEach(once(table => enliven(table, study)));
    part.querySelectorAll('.chart').forEach(once(chart => point(chart, study)));
  }
};
