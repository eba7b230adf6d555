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
  /** The same work done in another way: a hollow point below, without a label. */
  otherGflops?: number;
}

export interface RooflineOptions {
  title: string;
  subtitle?: string | readonly string[];
  peakGflops: number;
  gigabytesPerSecond: number;
  /** What the filled and the hollow points are. */
  kinds: { point: string; other: string };
}

const [WIDTH, HEIGHT] = [900, 480];
const LABEL_HEIGHT = 19;
/** Between the outermost points and the columns of labels, in pixels. */
const LABEL_GAP = 36;

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

/** The pixels nearest to `wanted` (ascending) that are `gap` apart and within [low, high]. */
function spreadOut(wanted: readonly number[], gap: number, low: number, high: number): number[] {
  const places: number[] = [];
  for (const pixel of wanted) places.push(Math.max(pixel, (places.at(-1) ?? low - gap) + gap));
  let limit = high;
  for (let i = places.length - 1; i >= 0 && (places[i] ?? 0) > limit; --i) {
    places[i] = limit;
    limit -= gap;
  }
  return places;
}

interface Label extends RooflinePoint {
  /** Where the label stands, in data coordinates. */
  labelIntensity: number;
  labelGflops: number;
}

/** Labels in one column at `column` pixels, in the order of their points from the top. */
function columnOf(points: readonly RooflinePoint[], column: number, x: LogAxis, y: LogAxis): Label[] {
  const sorted = [...points].sort((a, b) => b.gflops - a.gflops);
  const wanted = sorted.map(({ gflops }) => y.pixel(gflops));
  const centre = (Math.min(...wanted) + Math.max(...wanted)) / 2;
  // A column that is taller than its points opens evenly to both sides.
  const start = centre - (LABEL_HEIGHT * (sorted.length - 1)) / 2;
  const even = sorted.map((_, i) => Math.min(wanted[i] ?? 0, start + LABEL_HEIGHT * i));
  const top = y.pixel(y.domain[1]) + 60;
  return spreadOut(even, LABEL_HEIGHT, top, HEIGHT - 10).map((pixel, i) => ({
    ...(sorted[i] as RooflinePoint),
    labelIntensity: x.value(column),
    labelGflops: y.value(pixel),
  }));
}

export function roofline(points: readonly RooflinePoint[], options: RooflineOptions): TopLevelSpec {
  const { peakGflops, gigabytesPerSecond, kinds } = options;
  const ridge = peakGflops / gigabytesPerSecond;
  const intensities = points.map(({ intensity }) => intensity);
  const rates = points.flatMap(({ gflops, otherGflops }) => [gflops, otherGflops ?? gflops]);
  const x = new LogAxis([Math.min(ridge, ...intensities) / 3, Math.max(ridge, ...intensities) * 6], 0, WIDTH);
  const y = new LogAxis([Math.min(peakGflops / 6, ...rates) / 1.3, peakGflops * 1.35], HEIGHT, 0);

  const byIntensity = [...points].sort((a, b) => a.intensity - b.intensity);
  const half = Math.ceil(byIntensity.length / 2);
  const outermost = { left: x.pixel(Math.min(...intensities)), right: x.pixel(Math.max(...intensities)) };
  const left = columnOf(byIntensity.slice(0, half), outermost.left - LABEL_GAP, x, y);
  const right = columnOf(byIntensity.slice(half), outermost.right + LABEL_GAP, x, y);

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
    mark: { type: 'text', align, baseline: 'middle', dx: align === 'left' ? 5 : -5, fontSize: 12, color: '#262626' },
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
    legend: others.length > 0 ? { title: null, orient: 'top-left', offset: 14, symbolFillColor: '#404040' } : null,
  };
  const roof = [
    { intensity: x.domain[0], gflops: x.domain[0] * gigabytesPerSecond },
    { intensity: ridge, gflops: peakGflops },
    { intensity: x.domain[1], gflops: peakGflops },
  ];
  const roofText = { type: 'text', fontSize: 12, fontWeight: 600, color: '#404040' };
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
