//! Pictures of pages, and the QR codes in them.

use std::io::Cursor;

use anyhow::{Context as _, bail, ensure};
use png::{ColorType, Decoder, Transformations};

/// A picture of a page.
pub struct Picture {
    /// As the browser gave it.
    pub png: Vec<u8>,
    width: usize,
    height: usize,
    /// Lightness of each pixel.
    grey: Vec<u8>,
}

impl Picture {
    /// Reads a PNG file.
    pub(super) fn read(png: Vec<u8>) -> anyhow::Result<Self> {
        let mut decoder = Decoder::new(Cursor::new(&png));
        decoder.set_transformations(Transformations::normalize_to_color8());
        let mut reader = decoder.read_info()?;
        let size = reader.output_buffer_size().context("a picture too large")?;
        let mut pixels = vec![0; size];
        let frame = reader.next_frame(&mut pixels)?;
        ensure!(
            matches!(frame.color_type, ColorType::Rgb | ColorType::Rgba),
            "a picture without colors"
        );
        let grey = pixels
            .chunks_exact(frame.color_type.samples())
            .map(|pixel| {
                let sum: u32 = pixel.iter().take(3).map(|&part| u32::from(part)).sum();
                u8::try_from(sum / 3).unwrap_or(u8::MAX)
            })
            .collect();
        Ok(Self {
            width: usize::try_from(frame.width)?,
            height: usize::try_from(frame.height)?,
            grey,
            png,
        })
    }

    /// What the one QR code in the picture says. Only those are seen that all scanners read: dark on light, with a
    /// margin.
    pub fn code(&self) -> anyhow::Result<String> {
        let mut image =
            rqrr::PreparedImage::prepare_from_greyscale(self.width, self.height, |x, y| self.pixel(x, y));
        let grids = image.detect_grids();
        let [grid] = grids.as_slice() else {
            bail!("{} QR codes are seen", grids.len());
        };
        let (meta, content) = grid.decode().context("the QR code cannot be read")?;
        self.check_margin(&grid.bounds, meta.version.to_size())?;
        Ok(content)
    }

    /// Four light modules on each side (ISO/IEC 18004 section 9.1); `modules` is the width of the code.
    fn check_margin(&self, corners: &[rqrr::Point; 4], modules: usize) -> anyhow::Result<()> {
        // The fourth corner is an estimate; the other three have patterns of their own.
        let [start, across, _, down] = corners;
        let [left, right, top, bottom] = [start.x, across.x, start.y, down.y];
        let (left, right) = (usize::try_from(left)?, usize::try_from(right)?);
        let (top, bottom) = (usize::try_from(top)?, usize::try_from(bottom)?);
        // The far edges are told a module too far, so this is 2.5 to 3.5 modules from the code.
        let margin = right.saturating_sub(left) * 5 / (2 * (modules + 1));
        let light = |x: usize, y: usize| self.pixel(x, y) > 200;
        let outer = |low: usize, high: usize| [low.saturating_sub(margin), high + margin];
        let rows = outer(top, bottom)
            .into_iter()
            .all(|y| (left..right).all(|x| light(x, y)));
        let columns = outer(left, right)
            .into_iter()
            .all(|x| (top..bottom).all(|y| light(x, y)));
        ensure!(rows && columns, "the QR code has no light margin of 4 modules");
        Ok(())
    }

    /// Beyond the edges all is dark, as the frame of a screen.
    fn pixel(&self, x: usize, y: usize) -> u8 {
        let index = (x < self.width).then(|| y * self.width + x);
        index.and_then(|index| self.grey.get(index)).copied().unwrap_or(0)
    }
}

impl PartialEq for Picture {
    fn eq(&self, other: &Self) -> bool {
        (self.width, self.height) == (other.width, other.height) && self.grey == other.grey
    }
}
