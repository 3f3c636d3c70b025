// Comfort only: every page works without this file. Search as you type, on the server or in a static site's index.
"use strict";
(() => {
  const form = document.querySelector("form[data-live]");
  const results = document.getElementById("results");
  const found = document.getElementById("found");
  if (!form || !results || !found) return;
  const { root, depth } = document.body.dataset;
  const still = Boolean(document.body.dataset.static);
  const language = form.getAttribute("action").includes("zh/search/") ? "zh" : "en";
  const pause = 150;
  const shown = 60;
  let waiting = 0;
  let asked = 0;
  let index = null;

  const tell = (count, more) => {
    found.textContent = count ? `${count}${more ? " or more" : ""} papers found` : "Nothing found";
  };

  const values = () => {
    const given = [...new FormData(form)].map(([name, value]) => [name, value.toString()]);
    return given.filter(([, value]) => value.trim());
  };

  const onServer = async (number) => {
    const query = new URLSearchParams([...values(), ["lang", language], ["depth", depth]]);
    const answer = await fetch(`${root}fragment?${query}`);
    if (!answer.ok || number !== asked) return;
    // A page of our own server, escaped there; the content policy lets nothing in it run.
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (number !== asked) return;
    results.replaceChildren(...page.body.childNodes);
    tell(results.querySelectorAll("article").length, results.querySelector("[rel=next]"));
  };

  const element = (name, text, kind) => {
    const made = document.createElement(name);
    if (text) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };

  const entry = (row) => {
    const article = element("article", "", "entry");
    const heading = element("h2", "", "title");
    heading.dir = "auto";
    const link = element("a", row.title);
    link.href = `${root}${row.path}`;
    heading.append(link);
    const meta = element("p", "", "meta");
    if (row.verdict) meta.append(element("span", row.verdict, `badge ${row.verdict}`));
    if (row.data) meta.append(element("span", `${row.data} data`, "data"));
    if ((row.verdicts || []).includes("stale")) meta.append(element("span", "stale", "badge stale"));
    for (const words of [row.area, row.id]) if (words) meta.append(element("span", words));
    article.append(heading, meta);
    return article;
  };

  const inIndex = async (number) => {
    index ??= fetch(`${root}static/index.json`).then((answer) => answer.json());
    const rows = await index;
    if (number !== asked) return;
    const wanted = Object.fromEntries(values().map(([name, value]) => [name, value.trim().toLowerCase()]));
    const words = (wanted.q || "").replaceAll('"', " ").split(/\s+/).filter(Boolean);
    const last = `${wanted.until || wanted.day || ""}~`;
    const fits = (row) =>
      words.every((word) => (word.startsWith("-") && word.length > 1 ? !row.text.includes(word.slice(1)) : row.text.includes(word))) &&
      (!wanted.area || row.area === wanted.area) &&
      (!wanted.runs || row.runs === wanted.runs) &&
      (!wanted.verdict || (row.verdicts || []).includes(wanted.verdict)) &&
      (!wanted.category || (row.categories || []).includes(wanted.category)) &&
      (!wanted.author || (row.authors || "").includes(wanted.author)) &&
      (!(wanted.day || wanted.until) || (row.days || []).some((day) => day >= (wanted.day || "") && day < last));
    const matches = rows.filter(fits);
    results.replaceChildren(...matches.slice(0, shown).map(entry));
    if (!matches.length) results.append(element("p", "Nothing fits. Take a filter away, or try fewer words.", "empty"));
    if (matches.length > shown) results.append(element("p", `The first ${shown} of ${matches.length}; more words find fewer.`, "empty"));
    tell(Math.min(matches.length, shown), matches.length > shown);
  };

  const ask = (delay) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      asked += 1;
      (still ? inIndex : onServer)(asked).catch(() => { found.textContent = "The search failed"; });
    }, delay);
  };

  form.addEventListener("input", () => ask(pause));
  if (!still) return;
  form.addEventListener("submit", (event) => { event.preventDefault(); ask(0); });
  // An address with a query, such as one of the trends' links: a static host does not read it, so it is read here.
  const given = new URLSearchParams(location.search);
  for (const [name, value] of given) if (form.elements[name]) form.elements[name].value = value;
  if ([...given].some(([name, value]) => form.elements[name] && value)) ask(0);
})();
