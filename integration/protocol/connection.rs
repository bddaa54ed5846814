//! Cases 1-8: framing, ApiVersions, order of replies.

use super::{batch, dev, is_alive, produce_request, topic};
use crate::client::{Client, Connection, fetch_request, text};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiVersionsRequest, FetchRequest, MetadataRequest, ProduceRequest};
use kafscale::protocol::api::APIS;

/// A frame with a version 1 header whose client id is null.
fn frame(key: i16, version: i16, body: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_i32(10 + body.len() as i32);
    frame.put_i16(key);
    frame.put_i16(version);
    frame.put_i32(77);
    frame.put_i16(-1);
    frame.put_slice(body);
    frame.freeze()
}

async fn exchange(connection: &mut Connection, frame: &[u8]) -> Bytes {
    connection.send_raw(frame).await.unwrap();
    let mut answer = connection.receive_raw().await.unwrap();
    assert_eq!(answer.get_i32(), 77, "correlation id");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_headers_and_hostile_frames() {
    let stack = dev("connection", &[]).await;
    let mut connection = Connection::open(&stack.address()).await.unwrap();

    // 1. A version of ApiVersions from the future: version 0, error 35, our own range; the connection stays open.
    let mut answer = exchange(&mut connection, &frame(18, 99, b"\0\x02x\x02y\0")).await;
    assert_eq!((answer.get_i16(), answer.get_i32()), (35, 1));
    assert_eq!((answer.get_i16(), answer.get_i16(), answer.get_i16(), answer.len()), (18, 0, 4, 0));

    // 2. The response header has no tag buffer, even in flexible versions: the error code follows at once.
    for version in [3, 4] {
        let answer = exchange(&mut connection, &frame(18, version, b"\0\x02x\x02y\0")).await;
        assert_eq!(answer[..3], [0, 0, APIS.len() as u8 + 1], "error code and compact array of version {version}");
    }

    // 3. Software names are tokens.
    let request = ApiVersionsRequest::default().with_client_software_name(text("bad name"));
    let request = request.with_client_software_version(text("1"));
    let mut connection = Connection::open(&stack.address()).await.unwrap();
    assert_eq!(connection.call(3, &request).await.unwrap().error_code, 42);

    // 6. A null client id in a flexible header (tag buffers of header and body are empty).
    let mut answer = exchange(&mut connection, &frame(3, 12, b"\0\0\0\0\0")).await;
    assert_eq!(answer.get_u8(), 0, "tag buffer of the response header");
    assert_eq!(answer.get_i32(), 0, "throttle time");
    assert_eq!(answer.get_u8(), 2, "one broker");

    // 5. Produce 2 is in the ApiVersions reply and not served: the connection closes, nothing is misread.
    let produce = APIS.iter().find(|api| api.key as i16 == 0).unwrap();
    assert_eq!((produce.advertised_min, produce.min), (0, 3));
    connection.send_raw(&frame(0, 2, &[0, 1, 0, 0, 0, 0, 0, 0, 0, 0])).await.unwrap();
    connection.wait_closed().await.unwrap();

    // 8. Lengths that lie.
    for length in [-1, i32::MIN, 101 << 20, i32::MAX] {
        let mut connection = Connection::open(&stack.address()).await.unwrap();
        connection.send_raw(&length.to_be_bytes()).await.unwrap();
        connection.wait_closed().await.unwrap();
    }
    is_alive(&stack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_requests_are_answered_in_order() {
    let stack = dev("pipeline", &[]).await;
    topic(&mut Client::new(&stack.address()), "t", 1, &[]).await;

    // 7. The long poll in the middle waits for its whole time; `receive` checks the correlation ids.
    let mut connection = Connection::open(&stack.address()).await.unwrap();
    connection.send(9, &produce_request("t", -1, &[(0, batch(&[b"a"]))])).await.unwrap();
    connection.send(12, &fetch_request("t", 0, 1, 700, 1 << 20)).await.unwrap();
    connection.send(12, &MetadataRequest::default().with_topics(None)).await.unwrap();
    connection.send(0, &ApiVersionsRequest::default()).await.unwrap();
    connection.send(12, &fetch_request("t", 0, 0, 700, 1 << 20)).await.unwrap();
    let produced = connection.receive::<ProduceRequest>(9).await.unwrap();
    assert_eq!(produced.responses[0].partition_responses[0].error_code, 0);
    let waited = connection.receive::<FetchRequest>(12).await.unwrap();
    assert_eq!(waited.responses[0].partitions[0].records.as_ref().map_or(0, Bytes::len), 0);
    assert_eq!(connection.receive::<MetadataRequest>(12).await.unwrap().topics.len(), 1);
    assert_eq!(connection.receive::<ApiVersionsRequest>(0).await.unwrap().error_code, 0);
    let fetched = connection.receive::<FetchRequest>(12).await.unwrap();
    assert!(!fetched.responses[0].partitions[0].records.as_ref().unwrap().is_empty());
}
