// How numbers read. One way for each quantity, everywhere on the page.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

// US dollars; small amounts keep what they have to say.
export function money(dollars: number): string {
  if (dollars === 0) return "$0";
  const size = Math.abs(dollars);
  const places = size >= 1 ? 2 : Math.min(9, 2 - Math.floor(Math.log10(size)));
  const sign = dollars < 0 ? "-" : "";
  return `${sign}$${trim(size.toFixed(places), 2)}`;
}

export function moneyOfNanos(nanos: number): string {
  return money(nanos / 1e9);
}

export function tokens(count: number): string {
  return Math.abs(count) < 10_000 ? whole.format(count) : short.format(count);
}

export function count(number: number): string {
  return whole.format(number);
}

export function seconds(s: number): string {
  if (!Number.isFinite(s)) return "never";
  if (s < 0) return `-${seconds(-s)}`;
  if (s === 0) return "0 s";
  if (s < 0.001) return `${trim((s * 1e6).toFixed(0), 0)} µs`;
  if (s < 1) return `${trim((s * 1e3).toFixed(s < 0.01 ? 1 : 0), 0)} ms`;
  if (s < 60) return `${trim(s.toFixed(s < 10 ? 2 : 1), 0)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

const STEPS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export function bytes(num: number): string {
  let step = 0;
  let rest = num;
  while (Math.abs(rest) >= 1024 && step < STEPS.length - 1) {
    rest /= 1024;
    step += 1;
  }
  return `${trim(rest.toFixed(step === 0 || Math.abs(rest) >= 100 ? 0 : 1), 0)} ${STEPS[step]}`;
}

export function percent(share: number): string {
  const size = Math.abs(share);
  return `${trim((share * 100).toFixed(size > 0 && size < 0.1 ? 1 : 0), 0)} %`;
}

// Of Unix seconds: the time of a moment of today, else its date too.
export function clockTime(unixS: number): string {
  const moment = new Date(unixS * 1000);
  const isToday = moment.toDateString() === new Date().toDateString();
  const time = moment.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  return isToday ? time : `${moment.toLocaleDateString()} ${time}`;
}

// "1.50" with at least `least` places kept: the zeros at the end go.
function trim(text: string, least: number): string {
  const [before, after] = text.split(".");
  if (after === undefined) return text;
  let kept = after.replace(/0+$/, "");
  while (kept.length < least) kept += "0";
  return kept ? `${before}.${kept}` : before!;
}
