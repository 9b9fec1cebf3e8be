import type { Host, Request } from "./contract";

const ANSWER_MS = 6000;
const ANSWER_AFTER_RESTART_MS = 1500;

/**
 * Knows whether a kernel answers. `hello` is sent at the start and when the host says that the comm
 * changed; silence for some seconds, or a comm that throws, means that nobody listens.
 */
export class Connection {
  private timer: ReturnType<typeof setTimeout> | undefined;
  private check = () => this.hello(ANSWER_AFTER_RESTART_MS);

  constructor(
    private host: Host,
    private tell: (alive: boolean) => void,
  ) {
    host.on("comm_live_update", this.check);
  }

  hello(patience_ms = ANSWER_MS): void {
    this.send({ kind: "hello" });
    this.expectAnswer(patience_ms);
  }

  send(request: Request): void {
    try {
      this.host.send(request);
    } catch {
      this.silence();
      return;
    }
    if (request.kind === "generate") this.expectAnswer(ANSWER_MS);
  }

  /** Anything that came from the kernel. */
  heard(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    this.tell(true);
  }

  dispose(): void {
    clearTimeout(this.timer);
    this.host.off("comm_live_update", this.check);
  }

  private expectAnswer(patience_ms: number): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.silence(), patience_ms);
  }

  private silence(): void {
    clearTimeout(this.timer);
    this.tell(false);
  }
}
