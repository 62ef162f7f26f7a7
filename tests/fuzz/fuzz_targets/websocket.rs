//! Any bytes as an upgrade or as frames, for both ends: refused or not, never a panic, and the same verdict and the
//! same carried bytes wherever the reads are cut. First byte: where.
//! Run with `cargo +nightly fuzz run --fuzz-dir tests/fuzz websocket`.
#![no_main]

use jindou::format::pipeline::{Scratch, ServerPipeline, Transport};
use jindou::format::websocket::{FrameReader, Role};
use jindou::format::websocket_upgrade;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [cut, bytes @ ..] = input else { return };
    let cut = usize::from(*cut).min(bytes.len());
    for role in [Role::Server, Role::Client] {
        let read = |parts: &[&[u8]]| {
            let mut reader = FrameReader::new(role);
            let (mut stream, mut reply, mut ended) = (Vec::new(), Vec::new(), Ok(()));
            for part in parts {
                if ended.is_ok() {
                    ended = reader.feed(part, [1, 2, 3, 4], &mut stream, &mut reply);
                }
            }
            (stream, reply, ended)
        };
        assert_eq!(read(&[bytes]), read(&[&bytes[..cut], &bytes[cut..]]));
    }
    let mut reply = Vec::new();
    if let Ok(Some(taken)) = websocket_upgrade::accept(bytes, &mut reply) {
        assert!(taken <= bytes.len());
    }
    let _ = websocket_upgrade::check_answer(bytes, [7; 16]);
    let mut server = ServerPipeline::new(Transport::WebSocket, true);
    let _ = server.feed(bytes, &mut Scratch::default(), &mut reply, &mut |_| {});
});
