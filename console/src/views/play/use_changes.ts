// Draws again when something that is not the component's own has changed: at most once a frame, however often it does.

import { useEffect, useState } from "preact/hooks";

export interface Changing {
  listen(listener: () => void): () => void;
}

export function useChanges(source: Changing): void {
  const [, redraw] = useState(0);
  useEffect(() => {
    let frame = 0;
    const stop = source.listen(() => {
      frame ||= requestAnimationFrame(() => {
        frame = 0;
        redraw((times) => times + 1);
      });
    });
    redraw((times) => times + 1); // what changed before somebody listened
    return () => {
      cancelAnimationFrame(frame);
      stop();
    };
  }, [source]);
}
