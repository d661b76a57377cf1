"use strict";
// Draws /status.json each second and /history.json each ten. Text goes in as text only, and never as markup.

const place = (id) => document.getElementById(id);

function make(tag, name, ...inside) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  made.append(...inside);
  return made;
}

function age(seconds) {
  if (seconds < 120) return Math.floor(seconds) + " s";
  if (seconds < 7200) return Math.floor(seconds / 60) + " min";
  if (seconds < 172800) return Math.floor(seconds / 3600) + " h";
  return Math.floor(seconds / 86400) + " d";
}

const since = (time) => age(Math.max(0, (Date.now() - Date.parse(time)) / 1000));

function bytes(count) {
  if (count < 1000) return Math.round(count) + " B";
  for (const unit of ["kB", "MB", "GB", "TB", "PB"]) {
    count /= 1000;
    if (count < 999.5) return count.toFixed(count < 9.95 ? 1 : 0) + " " + unit;
  }
}

const ms = (wait) => wait === null ? "–" : wait + " ms";
const ORDER = { failing: 0, unproven: 1, proven: 2 };
const key = (service) => (service.key || "") + "/" + service.name;
const LINES = "http://www.w3.org/2000/svg";

// Lines over the last ten minutes, newest at the right, all to one scale.
function lines(samples, ...series) {
  const svg = document.createElementNS(LINES, "svg");
  svg.setAttribute("viewBox", "0 0 " + (samples - 1) + " 32");
  svg.setAttribute("preserveAspectRatio", "none");
  const most = Math.max(1e-9, ...series.flatMap(([values]) => values));
  for (const [values, name] of series) {
    let drawn = "", pen = "M";
    values.forEach((value, number) => {
      if (value === null) { pen = "M"; return; }
      const x = samples - values.length + number;
      const y = (31 - 29 * value / most).toFixed(1);
      // A point alone is a short line.
      drawn += pen + x + " " + y + (pen === "M" ? "h.3" : "");
      pen = "L";
    });
    const path = document.createElementNS(LINES, "path");
    if (name) path.setAttribute("class", name);
    path.setAttribute("d", drawn);
    svg.append(path);
  }
  return svg;
}

function figure(what, value, svg) {
  return make("div", "", make("span", "", what), make("b", "", value), svg);
}

function stateOf(it) {
  if (it.state === "proven") return "proven " + age(it.proof_age_s) + " ago";
  return it.state;
}

function card(service, rate, past, samples) {
  const name = service.name + (service.key ? " (asked for by " + service.key + ")" : "");
  const row = make("article", service.state, make("h3", "", make("span", "", name), make("b", "state", stateOf(service))));
  if (service.reason) row.append(make("p", "reason", service.reason));
  if (service.addresses.length) {
    row.append(make("p", "addresses faint", "users connect to " + service.addresses.join(", ")));
  }
  const told = service.publications.length > 1 || service.state !== "proven" ? service.publications : [];
  if (told.length) {
    row.append(make("ul", "faint", ...told.map((it) => make("li", it.state,
      it.key + (it.client ? " from " + it.client : "") + ": ", make("b", "", stateOf(it)),
      it.reason && it.reason !== service.reason ? ": " + it.reason : ""))));
  }
  for (const it of service.publications.filter((it) => it.unanswered >= 3)) {
    row.append(make("p", "", "no answer: the last " + it.unanswered + " sessions that sent bytes got none"));
  }
  const refused = Object.entries(service.refused);
  const count = refused.reduce((sum, [, number]) => sum + number, 0);
  const { now, peak, waiting } = service.users;
  const of = (name) => past ? past[name] : [];
  row.append(make("div", "figures",
    figure("users", now + (waiting ? ", " + waiting + " waiting" : "") + ", peak " + peak, lines(samples, [of("users")])),
    figure("in, out a second", rate ? bytes(rate.in) + ", " + bytes(rate.out) : "–",
      lines(samples, [of("in")], [of("out"), "second"])),
    figure("wait p50, p99", ms(service.wait_ms.p50) + ", " + ms(service.wait_ms.p99), lines(samples, [of("wait_ms")])),
    figure("refused", String(count), lines(samples, [of("refused"), "bad"]))));
  if (count) row.append(make("p", "faint", refused.map(([cause, number]) => cause + " " + number).join(", ")));
  return row;
}

function drawLinks(links) {
  const head = ["Key", "Address", "Up", "Round trip", "Idle", "Busy", "Coming", "Expires"];
  const cells = (tag, row) => make("tr", "", ...row.map((cell) => make(tag, "", String(cell))));
  const rows = links.flatMap((link) => {
    const { idle, busy, coming } = link.pool;
    const row = cells("td", [link.key, link.address || "–", link.since ? since(link.since) : "–",
      link.round_trip_ms === null ? "–" : link.round_trip_ms.toFixed(1) + " ms", idle, busy, coming, link.expires || "–"]);
    if (!link.reason) return [row];
    const reason = make("td", "reason", link.reason);
    reason.colSpan = head.length;
    return [row, make("tr", "", reason)];
  });
  place("links").replaceChildren(cells("th", head), ...rows);
}

function alarms(process) {
  const told = [];
  const refused = process.configuration.refused;
  if (refused) told.push("configuration refused since " + refused.since + ": " + refused.faults.join("; "));
  if (process.out_of_descriptors) told.push("out of file descriptors");
  const hellos = process.unknown_hellos;
  if (hellos) {
    told.push(hellos.count + " hellos with an unknown or wrong key in 10 min, last from " + hellos.last_from);
  }
  place("alarms").replaceChildren(...told.map((text) => make("p", "", text)));
}

let past = new Map(), samples = 60, before = null;

function draw(process) {
  const now = performance.now();
  const counts = new Map(process.services.map((service) => [key(service), service.bytes]));
  const rate = (service) => {
    const old = before && before.counts.get(key(service));
    if (!old) {
      const line = past.get(key(service));
      return line && line.in.length && { in: line.in.at(-1), out: line.out.at(-1) };
    }
    const seconds = (now - before.now) / 1000;
    return { in: (service.bytes.in - old.in) / seconds, out: (service.bytes.out - old.out) / seconds };
  };
  const services = [...process.services].sort((one, other) => ORDER[one.state] - ORDER[other.state]);
  const cards = services.map((service) => card(service, rate(service), past.get(key(service)), samples));
  before = { now, counts };
  document.title = (services.some((service) => service.state === "failing") ? "! " : "") + "skyorg " + process.role;
  place("title").textContent = "skyorg " + process.role;
  const file = process.configuration.file;
  place("head").textContent = "process " + process.pid + ", up " + since(process.since) + "; " +
    (file ? file + " read " + since(process.configuration.since) + " ago" : "configured by its command line");
  place("services").replaceChildren(...(cards.length ? cards : [make("p", "faint", "no service")]));
  drawLinks(process.links);
  alarms(process);
  const { descriptors, memory_bytes, log_lines_dropped } = process.process;
  place("process").textContent = descriptors.used + " file descriptors of " + (descriptors.limit ?? "any number") + ", " +
    bytes(memory_bytes ?? 0) + " of memory, " + log_lines_dropped + " log lines dropped";
}

async function ask(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(5000) });
  if (!answer.ok) throw new Error(answer.status);
  return answer.json();
}

async function statusForEver() {
  try {
    const told = await ask("status.json");
    draw(told.processes[0]);
    document.body.className = "";
  } catch {
    document.body.className = "stale";
    place("alarms").replaceChildren(make("p", "", "the process does not answer; what is shown was true before"));
  }
  setTimeout(statusForEver, document.hidden ? 10000 : 1000);
}

async function historyForEver() {
  try {
    const told = await ask("history.json");
    samples = told.samples;
    past = new Map(told.services.map((service) => [key(service), service]));
  } catch {
    // The status says that nobody answers.
  }
  setTimeout(historyForEver, 10000);
}

historyForEver().then(statusForEver);
