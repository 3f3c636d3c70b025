// Comfort only: every page works without this file. Search as you type, on the server or in a static site's index.
"use strict";
(() => {
  const form = document.querySelector("form[data-live]");
  const results = document.getElementById("results");
  if (!form || !results) return;
  const root = document.body.dataset.root;
  let waiting = 0;
  let asked = 0;
  let index = null;

  const show = (html, number) => { if (number === asked) results.innerHTML = html; };

  const onServer = async (number) => {
    const answer = await fetch(`${root}fragment?${new URLSearchParams(new FormData(form))}`);
    if (answer.ok) show(await answer.text(), number);
  };

  const inIndex = async (number) => {
    index ??= await (await fetch(`${root}static/index.json`)).json();
    const wanted = Object.fromEntries([...new FormData(form)].map(([name, value]) => [name, value.trim().toLowerCase()]));
    const words = (wanted.q || "").split(/\s+/).filter(Boolean);
    const found = index.filter((row) =>
      words.every((word) => row.text.includes(word)) && (!wanted.area || row.area === wanted.area) &&
      (!wanted.runs || row.runs === wanted.runs) && (!wanted.verdict || row.verdicts.includes(wanted.verdict)) &&
      (!wanted.category || row.categories.includes(wanted.category)) && (!wanted.author || row.authors.includes(wanted.author)) &&
      (!wanted.day || row.days.some((day) => day.startsWith(wanted.day))));
    if (number !== asked) return;
    results.replaceChildren(...found.slice(0, 100).map((row) => {
      const article = document.createElement("article");
      article.className = "entry";
      const heading = document.createElement("h3");
      const link = document.createElement("a");
      link.href = `${root}${row.path}`;
      link.textContent = row.title;
      heading.append(link);
      const meta = document.createElement("p");
      meta.className = "meta";
      meta.textContent = [row.verdict, row.area, row.id].filter(Boolean).join(" · ");
      article.append(heading, meta);
      return article;
    }));
    if (!found.length) results.textContent = "Nothing fits.";
  };

  const ask = () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      asked += 1;
      (document.body.dataset.static ? inIndex : onServer)(asked).catch(() => {});
    }, 150);
  };
  form.addEventListener("input", ask);
  if (document.body.dataset.static) form.addEventListener("submit", (event) => { event.preventDefault(); ask(); });
})();
