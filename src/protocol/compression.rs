//! Decompression of record batches, bounded.
//!
//! The broker looks inside a compressed batch only where Kafka's semantics need it: null keys on compacted topics, key
//! compaction and searches by timestamp. A batch of a few kilobytes can claim to hold gigabytes, so output is produced in small steps
//! and ends at [`output_max`], whatever the input says about itself.

use std::borrow::Cow;
use std::io::{self, Read};

/// Output that any batch may have, bytes.
const OUTPUT_FREE_MAX: usize = 16 * 1024 * 1024;
/// Output that no batch may have, bytes.
const OUTPUT_MAX: usize = 128 * 1024 * 1024;
/// Bytes out per byte in above [`OUTPUT_FREE_MAX`]; gzip cannot do better than 1,032.
const RATIO_MAX: usize = 1_100;
/// Bytes that are decompressed at a time.
const STEP_LEN: usize = 64 * 1024;
/// Largest window a zstd frame may ask for, as a power of two: level 22 uses 27. Memory is touched only as output is
/// written.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// Snappy cannot do better than 64 bytes from a 2-byte copy element.
const SNAPPY_RATIO_MAX: usize = 64;
/// First bytes of snappy-java's stream format.
const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\0";
/// Magic, version and compatible version.
const XERIAL_HEADER_LEN: usize = 16;

/// Why a batch cannot be decompressed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    /// The codec bits name no codec.
    #[error("unknown compression codec {0}")]
    UnknownCodec(u8),
    /// The bytes are not what the codec writes.
    #[error("compressed records are damaged: {0}")]
    Malformed(String),
    /// More output than allowed.
    #[error("{input_len} compressed bytes hold more than the {output_max} bytes allowed")]
    TooLarge {
        /// Bytes in.
        input_len: usize,
        /// The limit, bytes.
        output_max: usize,
    },
}

/// Kafka's codecs, with their numbers in a batch's attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// 0
    None,
    /// 1
    Gzip,
    /// 2, framed by snappy-java or raw
    Snappy,
    /// 3, frame format
    Lz4,
    /// 4
    Zstd,
}

impl Codec {
    /// The codec with this number (bits 0-2 of the attributes).
    pub fn from_bits(bits: u8) -> Result<Self, CompressionError> {
        match bits {
            0 => Ok(Self::None),
            1 => Ok(Self::Gzip),
            2 => Ok(Self::Snappy),
            3 => Ok(Self::Lz4),
            4 => Ok(Self::Zstd),
            other => Err(CompressionError::UnknownCodec(other)),
        }
    }
}

/// Output that `input_len` compressed bytes may have, bytes.
pub fn output_max(input_len: usize) -> usize {
    input_len.saturating_mul(RATIO_MAX).clamp(OUTPUT_FREE_MAX, OUTPUT_MAX)
}

/// Decompresses the records of a batch; without compression they are borrowed.
pub fn decompress(codec: Codec, input: &[u8]) -> Result<Cow<'_, [u8]>, CompressionError> {
    let limit = output_max(input.len());
    let output = match codec {
        Codec::None => return Ok(Cow::Borrowed(input)),
        Codec::Gzip => read_bounded(flate2::bufread::MultiGzDecoder::new(input), input.len(), limit)?,
        Codec::Lz4 => read_bounded(lz4_flex::frame::FrameDecoder::new(input), input.len(), limit)?,
        Codec::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input).map_err(malformed)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(malformed)?;
            read_bounded(decoder, input.len(), limit)?
        }
        Codec::Snappy => decompress_snappy(input, limit)?,
    };
    Ok(Cow::Owned(output))
}

fn malformed(error: impl std::fmt::Display) -> CompressionError {
    CompressionError::Malformed(error.to_string())
}

fn read_bounded(mut reader: impl Read, input_len: usize, limit: usize) -> Result<Vec<u8>, CompressionError> {
    let mut output = Vec::with_capacity(input_len.saturating_mul(2).min(limit));
    loop {
        let before = output.len();
        let step = STEP_LEN.min(limit + 1 - before) as u64;
        match reader.by_ref().take(step).read_to_end(&mut output) {
            Ok(_) if output.len() > limit => return Err(CompressionError::TooLarge { input_len, output_max: limit }),
            Ok(_) if output.len() == before => return Ok(output),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(malformed(e)),
        }
    }
}

/// Raw snappy (librdkafka and most others), or snappy-java's stream of length-prefixed raw blocks (Java).
fn decompress_snappy(input: &[u8], limit: usize) -> Result<Vec<u8>, CompressionError> {
    let mut output = Vec::new();
    if !input.starts_with(XERIAL_MAGIC) {
        append_snappy_block(input, input.len(), limit, &mut output)?;
        return Ok(output);
    }
    let mut rest = input.get(XERIAL_HEADER_LEN..).ok_or_else(|| malformed("snappy stream header is cut off"))?;
    while !rest.is_empty() {
        // snappy-java writes its header again when streams are concatenated.
        if rest.starts_with(XERIAL_MAGIC) && rest.len() >= XERIAL_HEADER_LEN {
            rest = &rest[XERIAL_HEADER_LEN..];
            continue;
        }
        let (prefix, after) = rest.split_at_checked(4).ok_or_else(|| malformed("snappy block length is cut off"))?;
        let len = u32::from_be_bytes(prefix.try_into().expect("four bytes")) as usize;
        let (block, after) = after.split_at_checked(len).ok_or_else(|| malformed("snappy block is cut off"))?;
        append_snappy_block(block, input.len(), limit, &mut output)?;
        rest = after;
    }
    Ok(output)
}

fn append_snappy_block(
    block: &[u8],
    input_len: usize,
    limit: usize,
    output: &mut Vec<u8>,
) -> Result<(), CompressionError> {
    let len = snap::raw::decompress_len(block).map_err(malformed)?;
    if len > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
        return Err(malformed(format!("snappy block of {} bytes cannot hold {len}", block.len())));
    }
    let before = output.len();
    if len > limit - before {
        return Err(CompressionError::TooLarge { input_len, output_max: limit });
    }
    output.resize(before + len, 0);
    let written = snap::raw::Decoder::new().decompress(block, &mut output[before..]).map_err(malformed)?;
    output.truncate(before + written);
    Ok(())
}

/// Compresses: batches that compaction takes records from, and those that tools and tests make.
pub fn compress(codec: Codec, input: &[u8]) -> io::Result<Vec<u8>> {
    use std::io::Write;
    match codec {
        Codec::None => Ok(input.to_vec()),
        Codec::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(input)?;
            encoder.finish()
        }
        Codec::Snappy => snap::raw::Encoder::new().compress_vec(input).map_err(io::Error::other),
        Codec::Lz4 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(input)?;
            encoder.finish().map_err(io::Error::other)
        }
        Codec::Zstd => zstd::stream::encode_all(input, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    fn xerial(input: &[u8], block_len: usize) -> Vec<u8> {
        let mut out = XERIAL_MAGIC.to_vec();
        out.extend([0, 0, 0, 1, 0, 0, 0, 1]);
        for chunk in input.chunks(block_len) {
            let block = snap::raw::Encoder::new().compress_vec(chunk).unwrap();
            out.extend((block.len() as u32).to_be_bytes());
            out.extend(block);
        }
        out
    }

    #[test]
    fn every_codec_round_trips() {
        let input: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        for codec in ALL {
            let packed = compress(codec, &input).unwrap();
            assert_eq!(decompress(codec, &packed).unwrap().as_ref(), &input[..], "{codec:?}");
        }
        let streamed = xerial(&input, 32 * 1024);
        assert_eq!(decompress(Codec::Snappy, &streamed).unwrap().as_ref(), &input[..]);
        let mut twice = streamed.clone();
        twice.extend(&streamed);
        assert_eq!(decompress(Codec::Snappy, &twice).unwrap().len(), 2 * input.len());
    }

    #[test]
    fn empty_input_never_panics() {
        for codec in ALL {
            let packed = compress(codec, b"").unwrap();
            assert_eq!(decompress(codec, &packed).unwrap().as_ref(), b"", "{codec:?}");
            let _ = decompress(codec, b"");
        }
    }

    #[test]
    fn bombs_end_at_the_limit() {
        let zeros = vec![0u8; OUTPUT_MAX + 1];
        for codec in [Codec::Gzip, Codec::Lz4, Codec::Zstd] {
            let bomb = compress(codec, &zeros).unwrap();
            let error = decompress(codec, &bomb).unwrap_err();
            assert!(matches!(error, CompressionError::TooLarge { .. }), "{codec:?}: {error}");
        }
        let small = compress(Codec::Zstd, &zeros[..OUTPUT_FREE_MAX + 1]).unwrap();
        assert!(small.len() < 8 * 1024, "zstd shrinks zeros");
        assert!(matches!(decompress(Codec::Zstd, &small), Err(CompressionError::TooLarge { .. })));
        let fits = compress(Codec::Zstd, &zeros[..OUTPUT_FREE_MAX]).unwrap();
        assert_eq!(decompress(Codec::Zstd, &fits).unwrap().len(), OUTPUT_FREE_MAX);
    }

    #[test]
    fn lying_snappy_lengths_allocate_nothing() {
        let lie = [0xff, 0xff, 0xff, 0xff, 0x0f, 0x00];
        assert!(decompress(Codec::Snappy, &lie).is_err());
        let mut stream = XERIAL_MAGIC.to_vec();
        stream.extend([0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 1]);
        assert!(decompress(Codec::Snappy, &stream).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn hostile_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), cut in 0usize..600) {
            for codec in ALL {
                let _ = decompress(codec, &bytes);
            }
            for codec in ALL {
                let mut packed = compress(codec, &bytes).unwrap();
                packed.truncate(cut);
                if let Some(byte) = packed.get_mut(cut / 2) {
                    *byte ^= 0x55;
                }
                let _ = decompress(codec, &packed);
            }
            bytes.splice(0..0, XERIAL_MAGIC.iter().copied());
            let _ = decompress(Codec::Snappy, &bytes);
        }
    }
}
