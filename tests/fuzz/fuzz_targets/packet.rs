//! Any bytes as packets, at any version: the decoder and both pipelines may refuse them but not panic, and what the
//! decoder understands must mean the same when it is said again. First byte: the version. Second: where reads are cut.
//! Run with `cargo +nightly fuzz run --fuzz-dir tests/fuzz packet`.
#![no_main]

use jindou::format::client_pipeline::{ClientOptions, ClientPipeline};
use jindou::format::packet::Connect;
use jindou::format::packet_codec::{Decoded, decode, encode, encoded_bytes};
use jindou::format::pipeline::{ConnackAnswer, Scratch, ServerPipeline, Transport};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [version, cut, bytes @ ..] = input else { return };
    let version = version % 7;
    match decode(bytes, version) {
        Ok(Decoded::Packet(packet, taken)) => {
            let mut again = Vec::new();
            encode(&packet, version, &mut again);
            assert!(taken <= bytes.len());
            assert_eq!(again.len(), encoded_bytes(&packet, version));
            assert_eq!(decode(&again, version), Ok(Decoded::Packet(packet, again.len())));
        }
        Ok(Decoded::Incomplete { need }) => assert!(need > bytes.len()),
        Err(_) => {}
    }
    let options = ClientOptions { transport: Transport::Tcp, plain: true, host: "", secret: [7; 32] };
    let connect = Connect {
        version: version.min(5),
        device_flag: 0,
        device_id: "d",
        uid: "u",
        token: "",
        client_timestamp_ms: 0,
        client_key: "",
    };
    let (mut scratch, mut up, mut down) = (Scratch::default(), Vec::new(), Vec::new());
    let mut client = ClientPipeline::open(&options, &connect, &mut up);
    let mut server = ServerPipeline::new(Transport::Tcp, true);
    let fed = server.feed(&up, &mut scratch, &mut down, &mut |_| {});
    assert!(fed.is_ok());
    let answer = ConnackAnswer { reason: 1, time_diff_ms: 0, node_id: 1, secret: [8; 32], salt: [b'x'; 16] };
    server.encode_connack(&answer, &mut down);
    let fed = client.feed(&down, &mut scratch, &mut up, &mut |_| {});
    assert!(fed.is_ok());
    // The same bytes whole and in two reads give the same packets and the same verdict.
    let (first, second) = bytes.split_at(usize::from(*cut).min(bytes.len()));
    let mut whole = Vec::new();
    let mut whole_fed = Ok(());
    let mut parts = Vec::new();
    let mut parts_fed = Ok(());
    for (reads, heard, fed) in
        [(&[bytes][..], &mut whole, &mut whole_fed), (&[first, second][..], &mut parts, &mut parts_fed)]
    {
        let mut server = ServerPipeline::new(Transport::Tcp, true);
        for read in reads {
            if fed.is_ok() {
                *fed = server.feed(read, &mut scratch, &mut down, &mut |inbound| heard.push(format!("{inbound:?}")));
            }
        }
    }
    assert_eq!(whole, parts);
    assert_eq!(whole_fed, parts_fed);
    let _ = server.feed(bytes, &mut scratch, &mut down, &mut |_| {});
    let _ = client.feed(bytes, &mut scratch, &mut up, &mut |_| {});
});
