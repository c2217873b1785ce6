//! Conversion of decoded frames to RGB.

use ffmpeg_next as ffmpeg;

use ffmpeg::format::Pixel;
use ffmpeg::frame;
use ffmpeg::software::scaling;

use crate::RgbImage;

/// Converts frames of any pixel format to 8-bit RGB at their own size.
///
/// Uses swscale with bicubic chroma and no other flag: neither `accurate_rnd` nor `full_chroma_int`;
/// the BT.601 matrix whatever the file says; full range for the `yuvj` formats only. OpenCV sets
/// the same, so the pixels equal the reference's bit for bit.
#[derive(Default)]
pub(super) struct FrameConverter {
    scaler: Option<(scaling::Context, frame::Video)>,
}

impl FrameConverter {
    /// Converts one frame; a change of size or format rebuilds the scaler.
    pub(super) fn convert(&mut self, frame: &frame::Video) -> Result<RgbImage, ffmpeg::Error> {
        let (width, height, format) = (frame.width(), frame.height(), frame.format());
        if width == 0 || height == 0 || format == Pixel::None {
            return Err(ffmpeg::Error::InvalidData);
        }
        let wanted = scaling::context::Definition { format, width, height };
        if self.scaler.as_ref().is_none_or(|(scaler, _)| *scaler.input() != wanted) {
            self.scaler = Some(new_scaler(wanted)?);
        }
        let (scaler, output) = self.scaler.as_mut().expect("set above");
        scaler.run(frame, output)?;
        let (row, stride) = (width as usize * 3, output.stride(0));
        let mut data = Vec::with_capacity(row * height as usize);
        for line in output.data(0).chunks(stride).take(height as usize) {
            data.extend_from_slice(&line[..row]);
        }
        Ok(RgbImage::new(width as usize, height as usize, data))
    }
}

fn new_scaler(
    input: scaling::context::Definition,
) -> Result<(scaling::Context, frame::Video), ffmpeg::Error> {
    let (width, height) = (input.width, input.height);
    let flags = scaling::Flags::BICUBIC;
    let scaler =
        scaling::Context::get(input.format, width, height, Pixel::RGB24, width, height, flags)?;
    let mut output = frame::Video::new(Pixel::RGB24, width, height);
    if output.planes() == 0 {
        return Err(ffmpeg::Error::Other { errno: ffmpeg::error::ENOMEM });
    }
    output.data_mut(0).fill(0); // FFmpeg leaves it uninitialised
    Ok((scaler, output))
}
