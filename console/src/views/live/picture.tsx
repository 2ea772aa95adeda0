// A canvas of ours: sharp on every screen, in the colours of the theme, drawn when what it shows has changed and not
// otherwise. Who does not see it gets its sentence. Knows nothing of what is drawn.

import { useEffect, useRef } from "preact/hooks";
import { colour, useTheme } from "../../kit";

export type Colours = Readonly<Record<"ground" | "line" | "text" | "quiet" | "accent" | "good" | "warn" | "bad" | "sunken" | "cached", string>>;

export interface Surface {
  context: CanvasRenderingContext2D;
  width: number; // CSS pixels
  height: number;
  colours: Colours;
}

interface PictureProps {
  label: string;
  height: number; // CSS pixels
  draw: (surface: Surface) => void; // the same function as long as the same is to be drawn
  onPoint?: ((x: number, y: number) => void) | undefined; // of the width and height, 0 to 1; -1 when the pointer leaves
}

const NAMES = ["ground", "line", "text", "quiet", "accent", "good", "warn", "bad", "sunken", "cached"] as const;

export function Picture({ label, height, draw, onPoint }: PictureProps) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const colours = useRef<Colours | null>(null);
  const theme = useTheme();
  const latest = useRef(draw);
  latest.current = draw;

  useEffect(() => {
    colours.current = Object.fromEntries(NAMES.map((name) => [name, colour(name)])) as unknown as Colours;
  }, [theme]);

  useEffect(() => {
    const paint = () => canvas.current && colours.current && repaint(canvas.current, colours.current, latest.current);
    paint();
    const size = new ResizeObserver(paint);
    size.observe(canvas.current!);
    return () => size.disconnect();
  }, [theme, height]);

  useEffect(() => {
    if (canvas.current && colours.current) repaint(canvas.current, colours.current, draw);
  }, [draw]);

  const point = onPoint && ((event: PointerEvent) => {
    const box = canvas.current!.getBoundingClientRect();
    onPoint((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  });
  return (
    <canvas
      ref={canvas}
      class="picture"
      role="img"
      aria-label={label}
      style={{ height: `${height}px` }}
      onPointerMove={point}
      onPointerLeave={onPoint && (() => onPoint(-1, -1))}
    />
  );
}

function repaint(canvas: HTMLCanvasElement, colours: Colours, draw: (surface: Surface) => void): void {
  const { clientWidth: width, clientHeight: height } = canvas;
  const context = canvas.getContext("2d");
  if (!context || width === 0) return;
  const scale = devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  draw({ context, width, height, colours });
}
