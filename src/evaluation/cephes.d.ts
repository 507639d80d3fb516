/** What is used of cephes, whose package names no types for ES modules. */
declare module "cephes" {
  /** Once it is there, its functions can be called. */
  export const compiled: Promise<void>;
  /** Regularised incomplete beta function I(x; a, b). */
  export function incbet(a: number, b: number, x: number): number;
}
