"""The few lines of JavaScript that our html needs: a click becomes an event that Python answers.

Each runs once for its element; listeners sit on the element itself, which stays while its content is patched.
"""

# --- frame ---

HEADER = """
const dark = () => document.body.classList.contains('dark');
const drawer = () => document.getElementById('shell').classList;  // gradio's css reaches no further than its own root
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-do]');
  if (!button) return;
  if (button.dataset.do === 'rail') drawer().toggle('rail-open');
  if (button.dataset.do === 'theme') {
    const next = dark() ? 'light' : 'dark';
    try { localStorage.setItem('fijn-theme', next); } catch {}
    document.body.classList.toggle('dark', next === 'dark');
  }
});
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape') drawer().remove('rail-open');
});
"""

RAIL = """
const shell = document.getElementById('shell');
const close = () => shell.classList.remove('rail-open');
element.addEventListener('click', (event) => {
  if (event.target.closest('[data-new]')) { close(); trigger('fresh'); return; }
  const link = event.target.closest('[data-run]');
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  close();
  trigger('pick', { run: link.dataset.run });
});
const shade = document.createElement('button');
shade.className = 'rail-shade';
shade.setAttribute('aria-label', 'Close the list of runs');
shade.addEventListener('click', close);
shell.append(shade);
"""

# the address bar follows the page, so that a reload or a second tab shows the same; another step begins at its top
PATH = """
let shown = '';
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-go]');
  if (button && !button.disabled) trigger('go', { to: button.dataset.go });
});
const follow = () => {
  const place = element.querySelector('[data-place]');
  if (!place) return;
  try { localStorage.setItem('fijn-run', place.dataset.run); } catch {}
  const url = new URL(location.href);
  for (const key of ['run', 'step', 'new']) url.searchParams.delete(key);
  if (place.dataset.run) { url.searchParams.set('run', place.dataset.run); }
  else url.searchParams.set('new', '1');
  if (place.dataset.step !== 'choose' || place.dataset.run) url.searchParams.set('step', place.dataset.step);
  if (url.href !== location.href) history.replaceState(null, '', url);
  if (shown && shown !== place.dataset.step) scrollTo({ top: 0 });
  shown = place.dataset.step;
};
watch('value', follow);
"""

FOLDS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-go]');
  if (button) trigger('go', { to: button.dataset.go });
});
"""

# --- choose ---

PRESETS = """
const cards = () => [...element.querySelectorAll('[data-preset]')];
const pick = (card) => { trigger('pick', { preset: card.dataset.preset }); card.focus(); };
element.addEventListener('click', (event) => {
  const card = event.target.closest('[data-preset]');
  if (card) pick(card);
});
element.addEventListener('keydown', (event) => {
  const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  const here = cards().indexOf(document.activeElement);
  if (!move || here < 0) return;
  event.preventDefault();
  pick(cards()[(here + move + cards().length) % cards().length]);
});
"""

FIT = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-fit]');
  if (button) trigger('fit', { preset: button.dataset.fit });
});
"""

# the whole card takes a dropped file; pasting several lines anywhere in it is taken as rows
DROP = """
const $ = (what) => element.querySelector(what);
const says = (text) => { $('.drop-says').textContent = text; };
const send = async (file) => {
  if (!file) return;
  says('Uploading ' + file.name + ' …');
  $('.drop').classList.add('busy');
  try {
    const { path } = await upload(file);
    says('');
    trigger('dropped', { path: path });
  } catch (error) {
    says('That file did not arrive: ' + (error.message || 'it may be too large') + '. Give its path above instead.');
  }
  $('.drop').classList.remove('busy');
};
const open = (shown) => {
  $('.paste').hidden = !shown;
  $('.drop').hidden = shown;
  if (shown) $('textarea').focus();
};
element.addEventListener('change', (event) => {
  if (event.target.type === 'file') { send(event.target.files[0]); event.target.value = ''; }
});
element.addEventListener('click', (event) => {
  if (event.target.closest('[data-paste]')) open(true);
  if (event.target.closest('[data-cancel]')) open(false);
  if (event.target.closest('[data-use]')) { trigger('pasted', { text: $('textarea').value }); open(false); }
});
queueMicrotask(() => {
  const card = element.closest('.data-card') || element;
  card.addEventListener('dragover', (event) => { event.preventDefault(); card.classList.add('over'); });
  card.addEventListener('dragleave', (event) => {
    if (!card.contains(event.relatedTarget)) card.classList.remove('over');
  });
  card.addEventListener('drop', (event) => {
    card.classList.remove('over');
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    send(event.dataTransfer.files[0]);
  });
  card.addEventListener('paste', (event) => {
    const text = (event.clipboardData || window.clipboardData).getData('text');
    if (event.target.id === 'paste-rows' || !text.trim().includes('\\n')) return;
    event.preventDefault();
    open(true);
    $('textarea').value = text;
  });
});
"""

# which part of a data set on the Hub
PICKS = """
element.addEventListener('change', (event) => {
  const { field } = event.target.dataset;
  if (field) trigger('part', { field: field, text: event.target.value });
});
"""

SEARCH = """
const filter = () => {
  const words = element.querySelector('input').value.toLowerCase().split(/\\s+/).filter(Boolean);
  const home = element.closest('.settings') || document;
  let any = false;
  home.querySelectorAll('.settings-part').forEach((part) => {
    let here = false;
    part.querySelectorAll('.field').forEach((field) => {
      const text = (field.textContent + ' ' + field.id).toLowerCase();
      const fits = words.every((word) => text.includes(word));
      field.classList.toggle('unfit', !fits);
      here = here || fits;
    });
    part.classList.toggle('unfit', !here);
    any = any || here;
  });
  element.querySelector('.settings-none').hidden = any;
};
element.addEventListener('input', filter);
"""

COPY = """
element.addEventListener('click', async (event) => {
  const button = event.target.closest('[data-copy]');
  if (!button) return;
  const said = button.querySelector('span');
  try { await navigator.clipboard.writeText(button.dataset.copy); said.textContent = 'Copied'; }
  catch { said.textContent = 'Press Ctrl+C'; getSelection().selectAllChildren(element.querySelector('code')); }
  setTimeout(() => { said.textContent = 'Copy'; }, 1600);
});
"""

# --- check ---

FINDINGS = """
element.addEventListener('click', (event) => {
  const data = event.target.closest('button')?.dataset;
  if (!data) return;
  if ('apply' in data) trigger('apply', { from: 'finding', index: Number(data.apply), code: data.code });
  if ('row' in data) trigger('row', { row: Number(data.row), file: data.file });
  if ('attempt' in data) trigger('attempt', { code: data.attempt });
  if ('undo' in data) trigger('undo');
  if ('repair' in data) trigger('unrepair', { fix: data.repair });
});
"""

ROWS = """
element.addEventListener('change', (event) => {
  const { role, field, read } = event.target.dataset;
  if (read) trigger('reading', { wish: read, text: event.target.value });
  if (role) trigger('map', { role: role, column: event.target.value });
  if (field) trigger('line', { field: field, text: event.target.value });
});
"""

TOKENS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-turn]');
  if (button && !button.disabled) trigger('turn', { row: Number(button.dataset.turn) });
});
"""

# the rows that a shorter or longer max_length would cut are counted here, so that the number moves with the slider
LENGTHS = """
const $ = (what) => element.querySelector(what);
const many = (n) => n.toLocaleString('en') + (n === 1 ? ' row' : ' rows');
const recount = () => {
  const card = $('.lengths'), value = Math.max(8, Number($('input').value));
  const rows = Number(card.dataset.rows), end = Number(card.dataset.end);
  let cut = 0;
  let lost = 0;
  for (const [length, n] of JSON.parse(card.dataset.counts)) if (length > value) cut += n;
  for (const [start, n] of JSON.parse(card.dataset.starts)) if (start >= value) lost += n;
  $('.histogram').style.setProperty('--at', (100 * value / end) + '%');
  $('[data-length]').textContent = value.toLocaleString('en');
  const losing = lost ? ` ${many(lost)} ${lost === 1 ? 'loses' : 'lose'} the whole answer.` : '';
  $('[data-cut]').textContent =
    cut ? `${many(cut)} cut (${(100 * cut / rows).toFixed(1)}%).${losing}` : 'no row is cut.';
};
element.addEventListener('input', recount);
element.addEventListener('change', () => trigger('cut', { length: Math.max(8, Number($('input').value)) }));
"""

PLAN = """
element.addEventListener('click', (event) => {
  const data = event.target.closest('button')?.dataset;
  if (!data) return;
  if ('ladder' in data) trigger('apply', { from: 'plan', says: data.ladder });
  if ('measure' in data) trigger('measure');
  if ('halt' in data) trigger('halt');
});
"""

# tiles and hardware are radio buttons: arrows move within their group
PLACE = (
    """
const pick = (button) => {
  trigger('place', { on: button.dataset.on, processes: Number(button.dataset.processes) });
  button.focus();
};
element.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (button?.dataset.on) pick(button);
});
element.addEventListener('keydown', (event) => {
  const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  const group = event.target.closest('[role=radiogroup]');
  if (!move || !group) return;
  event.preventDefault();
  const open = [...group.querySelectorAll('[data-on]:not(:disabled)')];
  pick(open[(open.indexOf(event.target) + move + open.length) % open.length]);
});
"""
    + COPY
)

VERDICT = """
element.addEventListener('click', (event) => {
  const data = event.target.closest('button')?.dataset;
  if (!data) return;
  if ('cancel' in data) trigger('cancel');
  if ('again' in data) trigger('again');
});
"""
