import type { AnyModel } from "../contract";

const REPLY_MS = 6000;
const REPLY_AFTER_RESTART_MS = 1500;
const SILENCE_MS = 10_000;
const LOST_STATUSES = new Set(["restarting", "autorestarting", "dead"]);

/** The parts of JupyterLab's kernel connection that are used here. */
export interface Kernel {
  interrupt(): Promise<void>;
  statusChanged?: {
    connect(callback: (sender: unknown, status: string) => void): void;
    disconnect(callback: (sender: unknown, status: string) => void): void;
  };
}

/** The front end's own connection to the kernel, or null in hosts that do not give it to widgets. */
export function kernelOf(model: { widget_manager?: unknown }): Kernel | null {
  const kernel = (model.widget_manager as { kernel?: Partial<Kernel> } | undefined)?.kernel;
  return typeof kernel?.interrupt === "function" ? (kernel as Kernel) : null;
}

type Channel<R> = Pick<AnyModel<never, never, R>, "on" | "off" | "send" | "widget_manager">;

/**
 * Detects whether the kernel that created the widget is still there. `init` is sent when the host reports a
 * change of the comm, and when work is going on and nothing was heard for a while; no reply within seconds, a comm
 * that throws, or a restart mean that it is gone.
 */
export class Connection<R> {
  private timer: ReturnType<typeof setTimeout> | undefined;
  private kernel: Kernel | null;
  private check = () => this.init(REPLY_AFTER_RESTART_MS);
  private onStatus = (_sender: unknown, status: string) => {
    if (LOST_STATUSES.has(status)) this.lost();
    // A kernel that another page or the server restarted tells no more than this, and often not even this: the
    // message is sent before the server listens to the new kernel.
    else if (status === "starting") this.check();
  };

  /**
   * @param model the widget's model
   * @param initRequest the message that the kernel answers with `ready`
   * @param onChange called with whether the kernel is there
   * @param isWorking whether the kernel has work for this widget, and so should be heard of
   */
  constructor(
    private model: Channel<R>,
    private initRequest: R,
    private onChange: (connected: boolean) => void,
    private isWorking: () => boolean,
  ) {
    model.on("comm_live_update", this.check);
    this.kernel = kernelOf(model);
    this.kernel?.statusChanged?.connect(this.onStatus);
  }

  init(timeout_ms = REPLY_MS): void {
    this.send(this.initRequest);
    this.expectReply(timeout_ms);
  }

  /** Sends a request, with a binary buffer where it has one. */
  send(request: R, buffer?: ArrayBuffer): void {
    try {
      if (buffer === undefined) this.model.send(request);
      else this.model.send(request, undefined, [buffer]);
    } catch {
      this.lost();
    }
  }

  /** Anything that came from the kernel. */
  received(): void {
    this.stopWaiting();
    this.timer = setTimeout(() => {
      if (this.isWorking()) this.init();
    }, SILENCE_MS);
    this.onChange(true);
  }

  expectReply(timeout_ms = REPLY_MS): void {
    this.stopWaiting();
    this.timer = setTimeout(() => this.lost(), timeout_ms);
  }

  dispose(): void {
    this.stopWaiting();
    this.model.off("comm_live_update", this.check);
    this.kernel?.statusChanged?.disconnect(this.onStatus);
  }

  private lost(): void {
    this.stopWaiting();
    this.onChange(false);
  }

  private stopWaiting(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
  }
}
