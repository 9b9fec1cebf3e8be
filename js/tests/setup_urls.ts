/** jsdom has no object URLs; this counts those alive. */
export const alive = new Set<string>();
let made = 0;

URL.createObjectURL = () => {
  made += 1;
  const url = `blob:test/${made}`;
  alive.add(url);
  return url;
};
URL.revokeObjectURL = (url: string) => {
  alive.delete(url);
};
