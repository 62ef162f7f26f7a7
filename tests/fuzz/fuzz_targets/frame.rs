//! Any bytes as a batch of frames from a peer, as they are and with header and checksum made right, at an aligned and
//! at an odd address: refused or not, never a panic, and what is let in can be said again.
//! Run with `cargo +nightly fuzz run --fuzz-dir tests/fuzz frame`.
#![no_main]

use bytes::Bytes;
use jindou::format::frame_codec::{FRAMES_HEADER_BYTES, FRAMES_MAGIC, FRAMES_VERSION, decode, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = decode(&Bytes::copy_from_slice(input));
    let mut batch = vec![0; FRAMES_HEADER_BYTES];
    batch[0..4].copy_from_slice(&FRAMES_MAGIC.to_le_bytes());
    batch[4..6].copy_from_slice(&FRAMES_VERSION.to_le_bytes());
    batch[8..12].copy_from_slice(&(input.len() as u32).to_le_bytes());
    batch.extend_from_slice(input);
    batch.resize(batch.len().next_multiple_of(8), 0);
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&batch[..12]);
    hasher.update(&batch[16..]);
    batch[12..16].copy_from_slice(&hasher.finalize().to_le_bytes());
    let decoded = decode(&Bytes::from(batch.clone()));
    batch.insert(0, 0);
    assert_eq!(decoded, decode(&Bytes::from(batch).slice(1..)), "an odd address changes nothing");
    if let Ok(batch) = decoded {
        let mut again = Vec::new();
        encode(&batch.frames, batch.numbers, &mut again);
        assert_eq!(decode(&Bytes::from(again)).map(|batch| batch.frames), Ok(batch.frames));
    }
});
