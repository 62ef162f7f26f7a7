//! Any bytes as a batch of the journal and as a stored message, as they are and with header and checksum made right:
//! refused or not, never a panic, and every record of a batch that is let in lies inside it.
//! Run with `cargo +nightly fuzz run --fuzz-dir tests/fuzz record`.
#![no_main]

use bytes::Bytes;
use jindou::format::message::StoredMessage;
use jindou::format::record::{BATCH_HEADER_BYTES, BATCH_MAGIC, Record, read_batch};
use libfuzzer_sys::fuzz_target;

const IDENTITY: u64 = 7;
const SEGMENT: u32 = 3;

fuzz_target!(|input: &[u8]| {
    let _ = read_batch(input, IDENTITY, SEGMENT);
    let _ = StoredMessage::take(&Bytes::copy_from_slice(input));
    let mut message = input.to_vec();
    if let Some(rest) = message.get(8..) {
        let crc = crc32fast::hash(rest);
        message[0..4].copy_from_slice(&(input.len() as u32).to_le_bytes());
        message[4..8].copy_from_slice(&crc.to_le_bytes());
        if let Ok(message) = StoredMessage::take(&Bytes::from(message)) {
            let texts = [message.from(), message.to(), message.client_msg_no(), message.topic()];
            let text_bytes: usize = texts.iter().map(|text| text.len()).sum();
            assert!(text_bytes + message.payload().len() < input.len());
        }
    }
    let [records, body @ ..] = input else { return };
    let mut batch = vec![0; BATCH_HEADER_BYTES];
    batch[0..4].copy_from_slice(&BATCH_MAGIC.to_le_bytes());
    batch[8..12].copy_from_slice(&(body.len() as u32).to_le_bytes());
    batch[12..16].copy_from_slice(&u32::from(*records).to_le_bytes());
    batch[16..24].copy_from_slice(&IDENTITY.to_le_bytes());
    batch[24..28].copy_from_slice(&SEGMENT.to_le_bytes());
    batch[32..40].copy_from_slice(&1u64.to_le_bytes());
    batch.extend_from_slice(body);
    let crc = crc32fast::hash(&batch[8..]);
    batch[4..8].copy_from_slice(&crc.to_le_bytes());
    if let Ok(read) = read_batch(&batch, IDENTITY, SEGMENT) {
        let mut seen = 0;
        for (record, place) in read.records() {
            seen += 1;
            assert!(place < read.length());
            match record {
                Record::Entry { data, .. } | Record::Body { data, .. } => assert!(place + data.len() <= read.length()),
                Record::Begin { founders, .. } => assert!(place + 8 * founders.iter().count() <= read.length()),
                Record::HardState { .. } | Record::End { .. } | Record::Install { .. } => {}
            }
        }
        assert_eq!(seen, usize::from(*records));
    }
});
