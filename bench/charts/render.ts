// Vega-Lite specification -> SVG (vega, without a browser) -> PNG (resvg, without a canvas).

import { writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { Resvg, type ResvgRenderOptions } from '@resvg/resvg-js';
import { parse, View } from 'vega';
import { compile, type TopLevelSpec } from 'vega-lite';

export const FONT = 'Inter';

/** What all pictures share: light background, quiet axes, a colour-blind safe palette (Okabe and Ito). */
export const PALETTE = ['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9'] as const;

export const theme = {
  background: '#ffffff',
  padding: 16,
  font: `${FONT}, Helvetica, Arial, sans-serif`,
  config: {
    view: { stroke: null },
    title: {
      anchor: 'start',
      fontSize: 17,
      fontWeight: 600,
      color: '#1a1a1a',
      offset: 16,
      subtitleFontSize: 12,
      subtitleColor: '#5a5a5a',
      subtitlePadding: 6,
      subtitleLineHeight: 17,
    },
    axis: {
      labelFontSize: 12,
      titleFontSize: 13,
      titleFontWeight: 400,
      titlePadding: 10,
      labelColor: '#404040',
      titleColor: '#262626',
      gridColor: '#e8e8e8',
      domainColor: '#8a8a8a',
      tickColor: '#8a8a8a',
    },
    legend: {
      labelFontSize: 12,
      labelLimit: 320,
      labelColor: '#262626',
      titleFontSize: 12,
      titleFontWeight: 600,
      titleLimit: 320,
      symbolSize: 140,
      rowPadding: 4,
    },
    header: { labelFontSize: 13, labelFontWeight: 600, labelColor: '#262626' },
  },
} as const;

export async function renderSvg(spec: TopLevelSpec): Promise<string> {
  const { font, config, ...rest } = theme;
  const themed = { ...rest, ...spec, config: { font, ...config, ...spec.config } } as TopLevelSpec;
  const view = new View(parse(compile(themed).spec), { renderer: 'none' });
  try {
    return await view.toSVG();
  } finally {
    view.finalize();
  }
}

// A bare machine has no fonts at all, and resvg then drops every word without an error: the fonts come from npm.
function fontOptions(): ResvgRenderOptions['font'] {
  const { resolve } = createRequire(import.meta.url);
  const files = ['400Regular/Inter_400Regular.ttf', '600SemiBold/Inter_600SemiBold.ttf'];
  const fontFiles = files.map((file) => resolve(`@expo-google-fonts/inter/${file}`));
  return { loadSystemFonts: false, fontFiles, defaultFontFamily: FONT, sansSerifFamily: FONT };
}

/** `zoom` 2 gives a picture that is sharp on dense screens. */
export function renderPng(svg: string, zoom = 2): Buffer {
  return new Resvg(svg, { font: fontOptions(), fitTo: { mode: 'zoom', value: zoom } }).render().asPng();
}

/** Writes `<base>.svg` and `<base>.png`; returns both paths. */
export async function writePicture(base: string, spec: TopLevelSpec): Promise<string[]> {
  const svg = await renderSvg(spec);
  writeFileSync(`${base}.svg`, svg);
  writeFileSync(`${base}.png`, renderPng(svg));
  return [`${base}.svg`, `${base}.png`];
}
