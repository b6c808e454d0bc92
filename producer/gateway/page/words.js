// Numbers in words.

/** 0.4 s, 12 s, 3 min 20 s, 2 h 5 min. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

/** 1,234 */
export const count = (number) => number.toLocaleString("en");

export const tokens = (number) => `${count(number)} ${number === 1 ? "token" : "tokens"}`;

/** Of tokens a second: 0.8, 35, 1,200. */
export const rate = (perSecond) => (perSecond < 9.95 ? perSecond.toFixed(1) : count(Math.round(perSecond)));

/** The time of day of Unix seconds: 16:02:11 */
export const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");

/** Beginning and end of an id that is longer than fits. */
export const short = (id) => (id.length > 24 ? `${id.slice(0, 12)}…${id.slice(-8)}` : id);
