// Follows the search: asks for the page's version every second, and puts what has changed in place of what stood there.
// What has not changed is not touched; what has keeps its place, its sorting and filter, and what is unfolded.
'use strict';

const status = document.querySelector('.live');
const received = new WeakMap();
const remember = container => { for (const child of container.children) received.set(child, child.outerHTML); };

const keyOf = details => details.querySelector('summary').textContent.replace(/[\d,.]+/g, '');
const within = (nodes, selector) => nodes.flatMap(node => [...node.querySelectorAll(selector), ...(node.matches(selector) ? [node] : [])]);
const stateOf = nodes => ({
  open: new Map(within(nodes, 'details').map(each => [keyOf(each), each.open])),
  tables: within(nodes, 'table.trials').map(each => ({ ...each.state(), left: each.parentElement.scrollLeft })),
});
const restore = (nodes, state) => {
  for (const each of within(nodes, 'details')) {
    if (state.open.has(keyOf(each))) each.open = state.open.get(keyOf(each));
  }
  within(nodes, 'table.trials').forEach((each, i) => {
    if (!state.tables[i]) return;
    each.restore(state.tables[i]);
    each.parentElement.scrollLeft = state.tables[i].left;
  });
};

// The children of `container` become those of `next`; those that are equal stay the elements that they are.
const replace = (container, next) => {
  const old = [...container.children], free = new Map();
  for (const child of old) free.set(received.get(child), [...(free.get(received.get(child)) ?? []), child]);
  const wanted = [...next.children].map(child => free.get(child.outerHTML)?.shift() ?? document.importNode(child, true));
  const gone = old.filter(child => !wanted.includes(child)), fresh = wanted.filter(child => !old.includes(child));
  for (const child of fresh) received.set(child, child.outerHTML);
  const state = stateOf(gone);
  for (const child of gone) child.remove();
  let at = container.firstElementChild;
  for (const child of wanted) {
    if (child === at) at = at.nextElementSibling;
    else container.insertBefore(child, at);
  }
  return () => restore(fresh, state);
};

// The heading that stands at the top of the window stays there, however long what is above it has become.
const anchored = change => {
  const top = [...document.querySelectorAll('h2')].filter(each => each.getBoundingClientRect().top < innerHeight / 2).pop();
  const before = scrollY > 0 && top?.getBoundingClientRect().top;
  change();
  const same = scrollY > 0 && top && document.getElementById(top.id);
  if (same) scrollBy(0, same.getBoundingClientRect().top - before);
};

let version = Number(document.documentElement.dataset.version);
const update = text => {
  const next = new DOMParser().parseFromString(text, 'text/html');
  const [here, there] = [document, next].map(each => each.querySelector('.study'));
  version = Number(next.documentElement.dataset.version);
  anchored(() => {
    status.textContent = next.querySelector('.live').textContent;
    replace(document.querySelector('nav'), next.querySelector('nav'));
    const again = replace(here, there);
    begin();
    again();
  });
};

for (const container of document.querySelectorAll('nav, .study')) remember(container);
const ask = async () => {
  let now, text;
  try {
    now = await (await fetch('version')).json();
    if (now.version !== version) text = await (await fetch('/')).text();
  } catch {
    status.textContent = 'The search does not answer any more: it has ended or was stopped. The last of what it found may be missing here; bo-distill report shows it all.';
    return;
  }
  if (text) update(text);
  if (now.ended) status.textContent = 'The search has ended; this page does not change any more.';
  else setTimeout(ask, 1000);
};
ask();
