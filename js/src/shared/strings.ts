/** The texts that the cell and the widget share. To translate all: this module and `widget/strings.ts`. */
export const PROGRESS_TEXT = {
  cancellingAfterStep: "Cancelling after this step…",
  pictureOf: (number: number, count: number) => `picture ${number} of ${count}`,
  stepOf: (step: number, steps: number) => `step ${step} of ${steps}`,
  starting: "starting",
  remaining: (time: string) => `about ${time} left`,
  of: (part: string, whole: string) => `${part} of ${whole}`,
  progress: "Progress",
  cancel: "Cancel",
};

/** Every text of a running cell. */
export const CELL_TEXT = {
  ...PROGRESS_TEXT,
  pictureInProgress: "Picture in progress",
  orPressStop: "or press ■",
  disconnected: "The kernel was restarted or does not respond. Run the cell again once it is idle.",
  previewOf: (prompt: string, step: number) => `${prompt} (preview, step ${step})`,
};
