/** The texts of progress, which the cell and the widget share. */
export const PROGRESS_TEXT = {
  cancellingAfterStep: "Cancelling after this step…",
  pictureOf: (number: number, count: number) => `picture ${number} of ${count}`,
  stepOf: (step: number, steps: number) => `step ${step} of ${steps}`,
  starting: "starting",
};
