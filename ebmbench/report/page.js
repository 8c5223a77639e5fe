'use strict';
for (const table of document.querySelectorAll('table.sortable')) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector('button').addEventListener('click', () => {
    const up = head.getAttribute('aria-sort') !== 'ascending';
    heads.forEach(other => other.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
    const key = row => {
      const cell = row.cells[column], value = cell.dataset.v;
      const text = value === undefined ? cell.textContent.trim() : value;
      const number = text === '' || text === 'nan' ? NaN : Number(text);
      return {text, number, empty: text === '' || text === 'nan' || text === '–'};
    };
    const rows = [...table.tBodies[0].rows].map(row => [key(row), row]);
    rows.sort(([a], [b]) => {
      if (a.empty || b.empty) return a.empty - b.empty;  // what has no value stays at the end
      const order = Number.isNaN(a.number) || Number.isNaN(b.number)
        ? a.text.localeCompare(b.text, 'en', {numeric: true}) : a.number - b.number;
      return up ? order : -order;
    });
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }));
}
const unfold = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let element = target; element; element = element.parentElement) if (element.tagName === 'DETAILS') element.open = true;
  if (target) target.scrollIntoView();
};
addEventListener('hashchange', unfold);
addEventListener('beforeprint', () => document.querySelectorAll('details').forEach(details => { details.open = true; }));
if (location.hash) unfold();
