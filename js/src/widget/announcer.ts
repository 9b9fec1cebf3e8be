import type { Job } from "../contract";
import { headline } from "./caption";
import type { Scene, ViewState } from "./state";
import { TEXT } from "./strings";

/**
 * Chooses what screen readers announce: each stage once, every quarter of the steps, the end.
 * Returns null when there is nothing new.
 */
export function createAnnouncer(): (scene: Scene, view: ViewState) => string | null {
  let last = "";
  let busy = false;
  const once = (key: string, text: string): string | null => {
    if (key === last) return null;
    last = key;
    return text;
  };
  return (scene, view) => {
    if (scene.kind === "running") {
      busy = true;
      const { job } = scene;
      const text = headline(job, { view });
      return once(
        `${job.id} ${job.state} ${job.stage} ${quarter(job)} ${text.startsWith("Cancelling")}`,
        text,
      );
    }
    if (!busy) return null;
    if (scene.kind === "pending") return null;
    busy = false;
    switch (scene.kind) {
      case "picture":
        return once(`done ${scene.picture.id}`, TEXT.ready(scene.picture.prompt));
      case "tiles":
        return once(`tiles ${scene.job.id}`, TEXT.readyAll(scene.job.picture_ids.length));
      case "cancelled":
        return once(
          `cancelled ${scene.job.id}`,
          scene.job.steps > 0 ? TEXT.cancelledAt(scene.job.step, scene.job.steps) : TEXT.cancelled,
        );
      case "failed":
        return once(
          `failed ${scene.message}`,
          [scene.message, scene.hint].filter((part) => part !== "").join(". "),
        );
      default:
        return null;
    }
  };
}

function quarter(job: Job): number {
  return job.steps > 0 ? Math.floor((4 * job.step) / job.steps) : 0;
}
