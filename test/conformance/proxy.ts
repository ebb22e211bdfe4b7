import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { onTestFinished } from "vitest";

/** A way to the server that can be closed and opened again: until the running test ends. */
export async function proxyTo(url: string) {
  let target = new URL(url);
  const sockets = new Set<Socket>();
  const listener = createServer((socket) => {
    const server = connect(Number(target.port), target.hostname);
    for (const [from, to] of [[socket, server] as const, [server, socket] as const]) {
      sockets.add(from);
      from
        .on("error", () => undefined)
        .on("close", () => {
          sockets.delete(from);
          to.destroy();
        });
      from.pipe(to);
    }
  });
  let port = 0;
  const way = {
    url: "",
    /** Also to another one than before. */
    open: async (to = target.href) => {
      target = new URL(to);
      listener.listen(port, "127.0.0.1");
      await once(listener, "listening");
      const address = listener.address();
      if (address !== null && typeof address === "object") port = address.port;
      const shown = new URL(url);
      shown.port = String(port);
      way.url = shown.href;
    },
    close: async () => {
      listener.close();
      for (const socket of sockets) socket.destroy();
      await once(listener, "close");
    },
  };
  await way.open();
  onTestFinished(() => {
    listener.close();
    for (const socket of sockets) socket.destroy();
  });
  return way;
}
