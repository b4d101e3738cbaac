"use strict";
// Shows samples and assessments. Everything from a run is text: it is set as textContent or as an attribute, never as HTML.
(() => {
  const byId = (id) => document.getElementById(id);
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  let playing = !calm;

  function element(name, properties = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(properties)) {
      if (key === "class") made.className = value;
      else if (key in made) made[key] = value;
      else made.setAttribute(key, value);
    }
    made.append(...children.filter((child) => child !== null && child !== ""));
    return made;
  }

  function read(id) {
    const found = byId(id);
    return found ? JSON.parse(found.textContent) : null;
  }

  function fill(select, options) {
    select.replaceChildren(...options.map(([value, label]) => element("option", { value, textContent: label })));
    select.parentElement.hidden = options.length < 2;
  }

  function categories(names) {
    return [["", "all"], ...[...new Set(names)].filter(Boolean).sort().map((name) => [name, name])];
  }

  function number(value) {
    return value === null || value === undefined ? "–" : String(Math.round(value * 1000) / 1000);
  }

  // An image or a video, which plays unless motion is not wanted; small ones are shown with their own pixels.
  function media(uri, words, controls) {
    const box = element("div", { class: "shown" });
    if (!uri) {
      box.append(element("p", { class: "missing", textContent: "not available" }));
      return box;
    }
    const isVideo = uri.startsWith("data:video/");
    const shown = isVideo
      ? element("video", { src: uri, muted: true, loop: true, playsInline: true, controls, "aria-label": words })
      : element("img", { src: uri, alt: words, decoding: "async" });
    shown.addEventListener(isVideo ? "loadedmetadata" : "load", () => {
      box.classList.toggle("small", (shown.naturalWidth || shown.videoWidth) <= 128);
      if (isVideo && playing) shown.play().catch(() => {});
    });
    box.append(shown);
    return box;
  }

  // Pages of a list: draws up to `size` items, and says which of how many.
  function pages(name, size, what, draw) {
    const [previous, next] = [byId(`${name}-previous`), byId(`${name}-next`)];
    let items = [];
    let start = 0;
    const show = () => {
      const part = items.slice(start, start + size);
      byId(`${name}-count`).textContent = items.length
        ? `${start + 1} to ${start + part.length} of ${items.length} ${what}`
        : `No ${what} match.`;
      previous.disabled = start === 0;
      next.disabled = start + size >= items.length;
      previous.parentElement.hidden = items.length <= size;
      draw(part);
    };
    const turn = (by) => {
      start = Math.max(0, start + by);
      show();
      byId(name).scrollIntoView();
    };
    previous.addEventListener("click", () => turn(-size));
    next.addEventListener("click", () => turn(size));
    return { show, set(found) { items = found; start = 0; show(); } };
  }

  function samples(data) {
    const [run, beside, category, search, step] = ["run", "beside", "category", "search", "step"].map((each) => byId(`samples-${each}`));
    const runs = data.runs;
    fill(run, runs.map((each, index) => [index, each.name]));
    fill(beside, [["", "nothing"], ["before", "the same run before training"], ...runs.map((each, index) => [index, each.name])]);
    fill(category, categories(runs.flatMap((each) => each.prompts.map((prompt) => prompt[1]))));
    const other = runs.findIndex((each) => each.name === data.beside);
    beside.value = other >= 0 ? String(other) : runs.some((each) => each.steps.length > 1) ? "before" : "";

    const chosen = () => runs[Number(run.value)];
    const nearest = (steps, wanted) => steps.reduce((best, each, index) => (Math.abs(each - wanted) < Math.abs(steps[best] - wanted) ? index : best), 0);

    // One sample with a line below it: of which iteration, and its score.
    function of(one, index, place, named) {
      if (place < 0) return element("div", { class: "shown" }, element("p", { class: "missing", textContent: "not sampled" }));
      const words = `${one.name}, iteration ${one.steps[index]}: ${one.prompts[place][0]}`;
      const box = media(one.media[index][place], words, false);
      const score = one.scores[index][place];
      const line = [named ? one.name : "", named ? `iteration ${one.steps[index]}` : "", score === null ? "" : `score ${number(score)}`];
      box.append(element("p", { class: "muted hint", textContent: line.filter(Boolean).join(", ") }));
      return box;
    }

    function draw(places) {
      const one = chosen();
      const index = Number(step.value);
      const other = beside.value === "" ? null : beside.value === "before" ? one : runs[Number(beside.value)];
      const otherIndex = !other ? 0 : beside.value === "before" ? 0 : nearest(other.steps, one.steps[index]);
      const tiles = byId("samples-tiles");
      tiles.className = other ? "tiles beside" : "tiles";
      if (one.prompts.length === 1) tiles.classList.add("one");
      tiles.replaceChildren(...places.map((place) => {
        const [prompt, kind] = one.prompts[place];
        const pair = element("div", { class: "pair" }, of(one, index, place, Boolean(other)));
        if (other) pair.append(of(other, otherIndex, other === one ? place : other.prompts.findIndex((each) => each[0] === prompt), true));
        const caption = element("figcaption", {}, kind ? element("span", { class: "tag", textContent: kind }) : "", prompt);
        return element("figure", { class: "tile" }, pair, caption);
      }));
      byId("samples-play").hidden = !tiles.querySelector("video");
    }

    const list = pages("samples", 24, "prompts", draw);
    const label = () => {
      const text = `${chosen().steps[Number(step.value)]} (${Number(step.value) + 1} of ${chosen().steps.length})`;
      byId("samples-iteration").textContent = text;
      step.setAttribute("aria-valuetext", `iteration ${text}`);
    };
    const filter = () => {
      const wanted = search.value.toLowerCase();
      label();
      list.set([...chosen().prompts.keys()].filter((place) => {
        const [prompt, kind] = chosen().prompts[place];
        return (!category.value || kind === category.value) && prompt.toLowerCase().includes(wanted);
      }));
    };
    const restart = () => {
      step.max = chosen().steps.length - 1;
      step.value = step.max;
      step.parentElement.hidden = chosen().steps.length < 2;
      filter();
    };
    run.addEventListener("change", restart);
    step.addEventListener("input", () => { label(); list.show(); });
    for (const each of [beside, category]) each.addEventListener("change", filter);
    search.addEventListener("input", filter);
    byId("samples-play").addEventListener("click", (event) => {
      playing = !playing;
      event.target.textContent = playing ? "Pause videos" : "Play videos";
      for (const video of document.querySelectorAll("video")) playing ? video.play().catch(() => {}) : video.pause();
    });
    byId("samples-play").textContent = playing ? "Pause videos" : "Play videos";
    restart();
  }

  function assessments(data) {
    const [run, category, show, search] = ["run", "category", "show", "search"].map((each) => byId(`assessments-${each}`));
    const items = data.items;
    fill(run, [["", "all"], ...[...new Set(items.map((item) => item.run))].map((name) => [name, name])].slice(0, 200));
    run.parentElement.hidden = run.options.length < 3;
    fill(category, categories(items.map((item) => item.category)));

    const side = (part) => {
      const margin = part.dims.reduce((sum, dim) => sum + (dim[1] || 0) - (dim[2] || 0), 0);
      return Math.abs(margin) < 0.001 ? null : margin > 0 ? 0 : 1;
    };
    const contradicts = (part) => part.winner !== null && side(part) !== null && side(part) !== part.winner;
    const tests = {
      all: () => true,
      failure: (item) => Boolean(item.failure),
      upset: (item) => Boolean(item.upset),
      contradiction: (item) => (item.categories || []).some(contradicts),
      wrong: (item) => item.label !== undefined && item.label !== null && item.winner !== item.label,
    };
    for (const option of [...show.options]) {
      const count = items.filter(tests[option.value]).length;
      option.textContent = `${option.textContent} (${count})`;
      option.disabled = !count;
    }

    const position = (index) => (index === null ? "none" : index === 0 ? "first" : "second");

    function table(part) {
      const rows = part.dims.map(([name, one, two, why, whyTwo]) => element("tr", {},
        element("th", { scope: "row", textContent: name }),
        element("td", { textContent: number(one) }), element("td", { textContent: number(two) }),
        element("td", { textContent: why }), element("td", { textContent: whyTwo })));
      const head = ["criterion", "first", "second", "about the first", "about the second"];
      return element("div", { class: "scroll", tabIndex: 0, role: "group", "aria-label": part.name || "criteria" }, element("table", {},
        element("thead", {}, element("tr", {}, ...head.map((each) => element("th", { scope: "col", textContent: each })))),
        element("tbody", {}, ...rows)));
    }

    function hierarchy(part) {
      return element("div", {},
        element("p", {}, element("strong", { textContent: part.name || "Criteria" }), " ",
          part.own ? element("span", { class: "tag", textContent: "own" }) : "",
          part.winner === null ? "" : element("span", { class: "tag good", textContent: `${position(part.winner)} wins` }),
          contradicts(part) ? element("span", { class: "tag bad", textContent: "contradicted by its scores" }) : ""),
        part.reason ? element("p", { textContent: part.reason }) : "",
        part.dims.length ? table(part) : "");
    }

    function one(item) {
      const sides = [0, 1].map((index) => element("figure", { class: item.winner === index ? "side won" : "side" },
        media(data.media[item.media[index]], `${position(index)}: ${item.names[index]} for ${item.prompt}`, true),
        element("figcaption", {}, `${position(index)}: ${item.names[index]}`,
          item.rewards[index] === null ? "" : `, reward ${number(item.rewards[index])}`, " ",
          item.winner === index ? element("strong", { class: "good", textContent: "winner" }) : "")));
      const words = element("div", { class: "words" });
      if (item.failure) words.append(element("p", {}, element("span", { class: "tag bad", textContent: `failed: ${item.failure}` })));
      if (item.reason) words.append(element("p", { textContent: item.reason }));
      const parts = item.categories || [];
      if (parts.length) {
        const own = parts.filter((part) => part.own).length;
        const label = `${parts.length} ${parts.length > 1 ? "categories" : "category"}${own ? `, ${own} of the judge's own` : ""}, with criteria and reasons`;
        const details = element("details", {}, element("summary", { textContent: label }));
        details.addEventListener("toggle", () => { if (details.open && details.children.length === 1) details.append(...parts.map(hierarchy)); });
        words.append(details);
      }
      const meta = element("p", { class: "meta muted" },
        item.category ? element("span", { class: "tag", textContent: item.category }) : "",
        item.upset ? element("span", { class: "tag bad", textContent: "upset" }) : "",
        tests.wrong(item) ? element("span", { class: "tag bad", textContent: `label: ${position(item.label)}` }) : "",
        item.iteration === null ? item.run : `${item.run}, iteration ${item.iteration}`);
      return element("article", { class: "assessment" }, element("h3", { textContent: item.prompt || "(no prompt)" }), meta,
        element("div", { class: "sides" }, ...sides), words);
    }

    const list = pages("assessments", 10, "pairs", (part) => byId("assessments-list").replaceChildren(...part.map(one)));
    const filter = () => {
      const wanted = search.value.toLowerCase();
      list.set(items.filter((item) => (!run.value || item.run === run.value)
        && (!category.value || item.category === category.value) && tests[show.value](item)
        && (!wanted || JSON.stringify(item).toLowerCase().includes(wanted))));
    };
    for (const each of [run, category, show]) each.addEventListener("change", filter);
    search.addEventListener("input", filter);
    filter();
  }

  // A live page asks its own server whether the runs have changed.
  function live() {
    let known = null;
    const ask = async () => {
      try {
        const answer = await fetch("version", { cache: "no-store" });
        const version = answer.ok ? await answer.text() : known;
        if (known !== null && version !== known) location.reload();
        known = version;
        byId("live").textContent = "live: loads again when a run changes";
      } catch {
        byId("live").textContent = "the server has ended; the page stays as it is";
      }
    };
    ask();
    setInterval(ask, 3000);
  }

  for (const form of document.querySelectorAll("form")) form.addEventListener("submit", (event) => event.preventDefault());
  const [found, judged] = [read("samples-data"), read("assessments-data")];
  if (found) samples(found);
  if (judged) assessments(judged);
  if (document.body.dataset.live) live();
})();
