//! QR codes of the invitation.

use qrcode::render::svg;
use qrcode::{Color, EcLevel, QrCode};

/// Minimum width in pixels, as on the reference relay: enough for printing.
const SIZE: u32 = 384;

/// Width of the quiet zone in modules (ISO/IEC 18004 section 9.1).
const QUIET: usize = 4;

/// The code as PNG and SVG, with high error correction: it stays readable if a quarter of it is damaged.
pub(super) fn pictures(text: &str) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
    let code = QrCode::with_error_correction_level(text, EcLevel::H)?;
    let svg = code
        .render::<svg::Color<'_>>()
        .min_dimensions(SIZE, SIZE)
        .build()
        .into_bytes();
    Ok((png(&code)?, svg))
}

fn png(code: &QrCode) -> anyhow::Result<Vec<u8>> {
    let width = code.width();
    let whole = width + 2 * QUIET;
    let scale = usize::try_from(SIZE)?.div_ceil(whole);
    let side = whole * scale;
    let colors = code.to_colors();
    let dark = |x: usize, y: usize| -> Option<bool> {
        let (column, row) = ((x / scale).checked_sub(QUIET)?, (y / scale).checked_sub(QUIET)?);
        let color = colors.get(row * width + column)?;
        Some(column < width && *color == Color::Dark)
    };
    let pixels: Vec<u8> = (0..side * side)
        .map(|index| {
            if dark(index % side, index / side).unwrap_or(false) {
                0
            } else {
                u8::MAX
            }
        })
        .collect();
    let mut bytes = Vec::new();
    let side = u32::try_from(side)?;
    let mut encoder = png::Encoder::new(&mut bytes, side, side);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(&pixels)?;
    Ok(bytes)
}
