//! Requests out of streams that are cut, merged and lied about.

use super::*;
use crate::protocol::limits::EdgeLimits;
use futures::FutureExt;
use tokio::io::AsyncWriteExt;

const REQUEST_BYTES_MAX: usize = 1 << 20;

fn budget() -> RequestBudget {
    RequestBudget::new(&EdgeLimits::default())
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&(body.len() as i32).to_be_bytes(), body].concat()
}

async fn read_all(chunks: Vec<Vec<u8>>) -> (Vec<Bytes>, Result<(), FrameError>) {
    let (mut client, server) = tokio::io::duplex(64 * 1024);
    let write = async move {
        for chunk in chunks {
            // A reader that gave up has closed the pipe.
            let _ = client.write_all(&chunk).await;
            tokio::task::yield_now().await;
        }
    };
    let read = async {
        let (budget, progress) = (budget(), ReadProgress::new());
        let mut reader = FrameReader::new(server, REQUEST_BYTES_MAX);
        let mut frames = Vec::new();
        loop {
            match reader.next(&budget, &progress).await {
                Ok(Some(frame)) => {
                    assert!(budget.used_bytes() >= frame.bytes.len());
                    frames.push(frame.bytes);
                }
                Ok(None) => return (frames, Ok(())),
                Err(error) => return (frames, Err(error)),
            }
            assert_eq!(budget.used_bytes(), 0, "permits go with the frame");
        }
    };
    tokio::join!(write, read).1
}

#[tokio::test]
async fn frames_survive_any_cut_and_any_merge() {
    let bodies: Vec<Vec<u8>> = [10, 11, 500, 32_768, 32_769, 70_000, 12, 300_000, 13]
        .iter()
        .enumerate()
        .map(|(i, len)| vec![i as u8; *len])
        .collect();
    let stream: Vec<u8> = bodies.iter().flat_map(|b| framed(b)).collect();
    for step in [7, 1000, 32_768, 65_000, stream.len()] {
        let (frames, end) = read_all(stream.chunks(step).map(<[u8]>::to_vec).collect()).await;
        end.unwrap();
        assert!(frames.iter().zip(&bodies).all(|(f, b)| f == b) && frames.len() == bodies.len(), "step {step}");
    }
}

#[tokio::test]
async fn impossible_lengths_are_refused() {
    for len in [-1, 0, 9, i32::MIN, REQUEST_BYTES_MAX as i32 + 1, i32::MAX] {
        let (frames, end) = read_all(vec![framed(&[1; 10]), len.to_be_bytes().to_vec()]).await;
        assert_eq!(frames.len(), 1);
        assert!(matches!(end, Err(FrameError::Length { len: l, .. }) if l == len));
    }
}

#[tokio::test]
async fn a_stream_that_ends_inside_a_frame_is_an_error() {
    let whole = framed(&[1; 100_000]);
    for len in [1, 4, 5, 40_000, 100_003] {
        let (frames, end) = read_all(vec![whole[..len].to_vec()]).await;
        assert!(frames.is_empty() && matches!(end, Err(FrameError::Truncated)), "{len}");
    }
}

#[tokio::test]
async fn an_announced_length_alone_takes_little() {
    let (mut client, server) = tokio::io::duplex(256 * 1024);
    let (budget, progress) = (budget(), ReadProgress::new());
    let mut reader = FrameReader::new(server, 100 << 20);
    client.write_all(&(100i32 << 20).to_be_bytes()).await.unwrap();
    client.write_all(&[0; 1000]).await.unwrap();
    assert!(reader.next(&budget, &progress).now_or_never().is_none());
    assert!(reader.carry.capacity() <= 4096, "{}", reader.carry.capacity());
    assert_eq!((progress.phase.get(), progress.frame_len.get()), (Phase::InFrame, 100 << 20));
}

fn header(key: i16, version: i16, rest: &[u8]) -> Vec<u8> {
    [&key.to_be_bytes()[..], &version.to_be_bytes(), &7i32.to_be_bytes(), rest].concat()
}

#[test]
fn headers_are_read_with_and_without_client_id_and_tags() {
    let read = |key, version, rest: &[u8]| read_header(&header(key, version, rest)).unwrap();
    let plain = read(3, 1, &[0, 2, b'm', b'e', 0xaa]);
    assert_eq!((plain.client_id.as_deref(), plain.correlation_id, plain.len), (Some("me"), 7, 12));
    assert_eq!(read(3, 1, &[0xff, 0xff]).client_id, None);
    // Flexible: a null client id, then a tagged section (empty; one field of two bytes).
    assert_eq!((read(3, 12, &[0xff, 0xff, 0]).client_id, read(3, 12, &[0xff, 0xff, 0]).len), (None, 11));
    assert_eq!(read(3, 12, &[0, 1, b'x', 1, 4, 2, 9, 9, 0xaa]).len, 16);
}

#[test]
fn headers_that_are_not_served_say_why() {
    let error = |key, version, rest: &[u8]| read_header(&header(key, version, rest)).unwrap_err();
    let unknown = HeaderError::ApiVersions { version: 99, correlation_id: 7 };
    assert_eq!(error(18, 99, &[0xff, 0xff]), unknown);
    assert_eq!(error(18, -1, &[0xff, 0xff]), HeaderError::NotServed { key: 18, version: -1 });
    assert_eq!(error(0, 2, &[0xff, 0xff]), HeaderError::NotServed { key: 0, version: 2 });
    assert_eq!(error(4, 0, &[0xff, 0xff]), HeaderError::NotServed { key: 4, version: 0 });
    assert_eq!(error(3, 1, &[0xff]), HeaderError::Short(9));
    assert_eq!(error(3, 1, &[0xff, 0xfe]), HeaderError::ClientId);
    assert_eq!(error(3, 1, &[0, 9, b'x']), HeaderError::ClientId);
    assert_eq!(error(3, 1, &[0, 1, 0xff]), HeaderError::ClientId);
    assert!(matches!(error(3, 12, &[0xff, 0xff]), HeaderError::Tags(_)));
    assert!(matches!(error(3, 12, &[0xff, 0xff, 0x7f]), HeaderError::Tags(_)));
}
