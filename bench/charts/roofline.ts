// Roofline: rate over arithmetic intensity, both logarithmic, under the roofs of a machine's multiply-adds and memory.

import type { TopLevelSpec } from 'vega-lite';
import { PALETTE } from './render.js';

export interface RooflinePoint {
  /** Stands at the end of a line that leads to the point. */
  label: string;
  /** Points of one family share a colour. */
  family: string;
  /** FLOP per byte. */
  intensity: number;
  gflops: number;
  /** The same work done in another way: a point of another shape on the same vertical, without a label. */
  otherGflops?: number;
}

export interface RooflineOptions {
  title: string;
  subtitle?: string | readonly string[];
  peakGflops: number;
  gigabytesPerSecond: number;
  /** Names of the two shapes. */
  kinds: { point: string; other: string };
}

const [WIDTH, HEIGHT] = [1000, 480];
const LABEL_HEIGHT = 19;
const FONT_SIZE = 12;
/** Between the outermost points and the columns of labels, in pixels. */
/** Pixels along x of the slanted roof's name. */
const ROOF_LABEL = 130;
const LABEL_GAP = 44;
const MARGIN = 10;

/** Pixels of a text, a little too many. */
const textWidth = (text: string) => 0.56 * FONT_SIZE * text.length;

/** A logarithmic axis; pixels grow to the right or downwards. */
class LogAxis {
  constructor(
    readonly domain: readonly [number, number],
    private readonly from: number,
    private readonly to: number,
  ) {}

  pixel(value: number): number {
    const [low, high] = this.domain;
    return this.from + ((this.to - this.from) * Math.log(value / low)) / Math.log(high / low);
  }

  value(pixel: number): number {
    const [low, high] = this.domain;
    return low * (high / low) ** ((pixel - this.from) / (this.to - this.from));
  }

  pixelsPerDecade(): number {
    const [low, high] = this.domain;
    return Math.abs(this.to - this.from) / Math.log10(high / low);
  }
}

/** An axis with `before` pixels in front of the lowest value and `after` pixels behind the highest. */
function axisAround(values: readonly number[], before: number, after: number): LogAxis {
  const low = Math.min(...values);
  const high = Math.max(...values, 2 * low);
  const perPixel = (high / low) ** (1 / (WIDTH - before - after));
  return new LogAxis([low / perPixel ** before, high * perPixel ** after], 0, WIDTH);
}

interface Label extends RooflinePoint {
  /** Where the label stands, in data coordinates. */
  labelIntensity: number;
  labelGflops: number;
}

/** Labels below each other at `column` pixels from `top`, in the order in which a ray from their middle meets the points. */
function columnOf(points: readonly RooflinePoint[], column: number, top: number, x: LogAxis, y: LogAxis): Label[] {
  const middle = top + (LABEL_HEIGHT * (points.length - 1)) / 2;
  const steepness = ({ intensity, gflops }: RooflinePoint) =>
    (y.pixel(gflops) - middle) / Math.abs(x.pixel(intensity) - column);
  return [...points]
    .sort((a, b) => steepness(a) - steepness(b))
    .map((point, i) => ({
      ...point,
      labelIntensity: x.value(column),
      labelGflops: y.value(top + LABEL_HEIGHT * i),
    }));
}

export function roofline(points: readonly RooflinePoint[], options: RooflineOptions): TopLevelSpec {
  const { peakGflops, gigabytesPerSecond, kinds } = options;
  const ridge = peakGflops / gigabytesPerSecond;
  const byIntensity = [...points].sort((a, b) => a.intensity - b.intensity);
  const widest = (some: readonly RooflinePoint[]) => Math.max(0, ...some.map(({ label }) => textWidth(label)));

  const intensities = points.map(({ intensity }) => intensity);
  const rates = points.flatMap(({ gflops, otherGflops }) => [gflops, otherGflops ?? gflops]);
  const around = LABEL_GAP + MARGIN;
  const y = new LogAxis([Math.min(peakGflops / 6, ...rates) / 1.3, peakGflops * 1.35], HEIGHT, 0);
  const rightTop = y.pixel(peakGflops) + 2 * LABEL_HEIGHT;

  /** The labels of the first points on the left, those of the others on the right. */
  const arranged = (onTheLeft: number) => {
    const [leftPoints, rightPoints] = [byIntensity.slice(0, onTheLeft), byIntensity.slice(onTheLeft)];
    const axis = (more: number) =>
      axisAround(intensities, around + widest(leftPoints) + more, around + widest(rightPoints));
    // Enough of the slanted roof is seen to carry its name.
    const x = axis(Math.max(0, ROOF_LABEL - axis(0).pixel(ridge)));
    // The left column begins where the memory roof has passed by: a whole label lies right of it.
    const roofAtMargin = Math.min(peakGflops, x.value(2 * MARGIN) * gigabytesPerSecond);
    const leftTop = y.pixel(roofAtMargin) + LABEL_HEIGHT;
    const left = columnOf(leftPoints, x.pixel(Math.min(...intensities)) - LABEL_GAP, leftTop, x, y);
    const right = columnOf(rightPoints, x.pixel(Math.max(...intensities)) + LABEL_GAP, rightTop, x, y);
    const fits = leftTop + LABEL_HEIGHT * (left.length - 0.5) <= HEIGHT;
    return { x, left, right, fits };
  };
  // Half on each side, or fewer on the left: there is less room under the slanted roof.
  let onTheLeft = Math.ceil(byIntensity.length / 2);
  while (onTheLeft > 0 && !arranged(onTheLeft).fits) onTheLeft--;
  const { x, left, right } = arranged(onTheLeft);

  const families = [...new Set(points.map(({ family }) => family))];
  const position = (xField: string, yField: string) => ({
    x: {
      field: xField,
      type: 'quantitative',
      title: 'arithmetic intensity (FLOP per byte of tensors read and written once)',
      scale: { type: 'log', domain: [...x.domain], nice: false },
      axis: { grid: true, format: '~r', labelFlush: false, values: ticks(x.domain) },
    },
    y: {
      field: yField,
      type: 'quantitative',
      title: 'useful GFLOP/s',
      scale: { type: 'log', domain: [...y.domain], nice: false },
      axis: { grid: true, format: '~r', values: ticks(y.domain) },
    },
  });
  const color = {
    field: 'family',
    type: 'nominal',
    scale: { domain: families, range: PALETTE.slice(0, families.length) },
    legend: null,
  };
  const point = position('intensity', 'gflops');
  const atLabel = position('labelIntensity', 'labelGflops');
  const leaders = {
    data: { values: [...left, ...right] },
    mark: { type: 'rule', strokeWidth: 1, strokeOpacity: 0.55 },
    encoding: { ...point, x2: { field: 'labelIntensity' }, y2: { field: 'labelGflops' }, color },
  };
  const text = (labels: readonly Label[], align: 'left' | 'right') => ({
    data: { values: labels },
    // Clipped: the room that texts are thought to take beyond the frame would widen the picture.
    mark: {
      type: 'text',
      clip: true,
      align,
      baseline: 'middle',
      dx: align === 'left' ? 5 : -5,
      fontSize: FONT_SIZE,
      color: '#262626',
    },
    encoding: { ...atLabel, text: { field: 'label', type: 'nominal' } },
  });

  const others = points.filter(({ otherGflops }) => otherGflops !== undefined);
  const marks = [
    ...points.map((p) => ({ ...p, kind: kinds.point })),
    ...others.map(({ otherGflops, ...p }) => ({ ...p, gflops: otherGflops, kind: kinds.other })),
  ];
  const shape = {
    field: 'kind',
    type: 'nominal',
    scale: { domain: [kinds.point, kinds.other], range: ['circle', 'square'] },
    legend: others.length > 0 ? { title: null, orient: 'bottom-right', offset: 14, symbolFillColor: '#404040' } : null,
  };
  const roof = [
    { intensity: Math.min(x.domain[0], ridge), gflops: Math.min(x.domain[0] * gigabytesPerSecond, peakGflops) },
    { intensity: ridge, gflops: peakGflops },
    { intensity: x.domain[1], gflops: peakGflops },
  ];
  const roofText = { type: 'text', clip: true, fontSize: FONT_SIZE, fontWeight: 600, color: '#404040' };
  const middle = Math.sqrt(Math.max(x.domain[0], y.domain[0] / gigabytesPerSecond) * ridge);
  const slope = (-180 / Math.PI) * Math.atan(y.pixelsPerDecade() / x.pixelsPerDecade());

  return {
    $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
    title: { text: options.title, ...(options.subtitle && { subtitle: options.subtitle }) },
    width: WIDTH,
    height: HEIGHT,
    layer: [
      {
        data: { values: roof },
        mark: { type: 'line', clip: true, color: '#404040', strokeWidth: 2 },
        encoding: point,
      },
      {
        data: { values: [{ intensity: x.domain[1], gflops: peakGflops }] },
        mark: {
          ...roofText,
          align: 'right',
          dx: -6,
          dy: -10,
          text: `multiply-adds: ${peakGflops.toFixed(0)} GFLOP/s`,
        },
        encoding: point,
      },
      {
        data: { values: [{ intensity: middle, gflops: middle * gigabytesPerSecond }] },
        mark: { ...roofText, angle: slope, dy: -10, text: `memory: ${gigabytesPerSecond.toFixed(0)} GB/s` },
        encoding: point,
      },
      {
        data: { values: others },
        mark: { type: 'rule', strokeWidth: 1, strokeDash: [2, 3], strokeOpacity: 0.6 },
        encoding: { ...point, y2: { field: 'otherGflops' }, color },
      },
      leaders,
      {
        data: { values: marks },
        mark: { type: 'point', filled: true, opacity: 1, size: 70 },
        encoding: { ...point, color, shape },
      },
      text(left, 'right'),
      text(right, 'left'),
    ],
  } as TopLevelSpec;
}

/** 1, 2 and 5 times powers of ten within the domain. */
function ticks([low, high]: readonly [number, number]): number[] {
  const values: number[] = [];
  for (let power = 10 ** Math.floor(Math.log10(low)); power <= high; power *= 10) {
    values.push(...[1, 2, 5].map((digit) => digit * power));
  }
  return values.filter((value) => value >= low && value <= high);
}
