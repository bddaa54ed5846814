//! Cases 1-8: framing, ApiVersions, order of replies.

use super::{batch, dev, end, is_alive, produce_request, topic};
use crate::client::{Client, ClientError, Connection, fetch_request, text};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiVersionsRequest, FetchRequest, MetadataRequest, ProduceRequest};
use kafscale::clock::monotonic;
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

    // 3. Names and versions of client software are tokens. Who sends others is told, and may go on.
    let mut connection = Connection::open(&stack.address()).await.unwrap();
    for (version, name, software, code) in [
        (3, "bad name", "1", 42),
        (3, "client", "1 beta", 42),
        (4, "client/1", "1", 42),
        (4, "", "1", 42),
        (4, "client", "1", 0),
    ] {
        let request = ApiVersionsRequest::default().with_client_software_name(text(name));
        let request = request.with_client_software_version(text(software));
        let answer = connection.call(version, &request).await.unwrap();
        assert_eq!(answer.error_code, code, "{name:?} {software:?}");
    }

    // 6. A null client id in a flexible header (tag buffers of header and body are empty), and in an old one.
    let mut answer = exchange(&mut connection, &frame(3, 12, b"\0\0\0\0\0")).await;
    assert_eq!(answer.get_u8(), 0, "tag buffer of the response header");
    assert_eq!(answer.get_i32(), 0, "throttle time");
    assert_eq!(answer.get_u8(), 2, "one broker");
    let mut answer = exchange(&mut connection, &frame(3, 1, &[0; 4])).await;
    assert_eq!(answer.get_i32(), 1, "one broker");

    // 8. Lengths that lie: no answer, only the end.
    for length in [-1, i32::MIN, (100 << 20) + 1, i32::MAX] {
        let mut connection = Connection::open(&stack.address()).await.unwrap();
        connection.send_raw(&length.to_be_bytes()).await.unwrap();
        is_closed_without_an_answer(&mut connection).await;
    }
    is_alive(&stack).await;
}

async fn is_closed_without_an_answer(connection: &mut Connection) {
    let received = connection.receive_raw().await;
    assert!(matches!(received, Err(ClientError::Io(_))), "{received:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn produce_versions_that_are_advertised_and_not_served() {
    // 5. ApiVersions says 0 (clients decide by it whether the broker understands compression), 3 is the lowest that is
    // served. A well-formed request below it is not misread: nothing is answered, nothing is stored.
    let stack = dev("old-produce", &[]).await;
    let mut client = Client::new(&stack.address());
    topic(&mut client, "t", 1, &[]).await;
    let spoken = client.api_versions().await.unwrap();
    let produce = spoken.iter().find(|api| api.api_key == 0).unwrap();
    assert_eq!((produce.min_version, produce.max_version), (0, 13));
    let records = batch(&[b"not for you"]);
    let mut body = BytesMut::new();
    body.put_i16(-1); // acks
    body.put_i32(30_000);
    body.put_i32(1);
    body.put_slice(b"\0\x01t");
    body.put_i32(1);
    body.put_i32(0); // partition
    body.put_i32(records.len() as i32);
    body.put_slice(&records);
    for version in 0..=2 {
        let mut connection = Connection::open(&stack.address()).await.unwrap();
        connection.send_raw(&frame(0, version, &body)).await.unwrap();
        is_closed_without_an_answer(&mut connection).await;
    }
    is_alive(&stack).await;
    assert_eq!(end(&mut client, "t").await, 0);
    assert_eq!(client.produce("t", 0, records).await.unwrap().base_offset, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_requests_are_answered_in_order() {
    let stack = dev("pipeline", &[]).await;
    for name in ["t", "silent"] {
        topic(&mut Client::new(&stack.address()), name, 1, &[]).await;
    }

    // 7. The long poll in the middle waits for its whole time; `receive` checks the correlation ids.
    let mut connection = Connection::open(&stack.address()).await.unwrap();
    connection.send(9, &produce_request("t", -1, &[(0, batch(&[b"a"]))])).await.unwrap();
    connection.send(12, &fetch_request("silent", 0, 0, 700, 1 << 20)).await.unwrap();
    connection.send(12, &MetadataRequest::default().with_topics(None)).await.unwrap();
    connection.send(0, &ApiVersionsRequest::default()).await.unwrap();
    connection.send(12, &fetch_request("t", 0, 0, 700, 1 << 20)).await.unwrap();
    let sent = monotonic();
    let produced = connection.receive::<ProduceRequest>(9).await.unwrap();
    assert_eq!(produced.responses[0].partition_responses[0].error_code, 0);
    let waited = connection.receive::<FetchRequest>(12).await.unwrap();
    let silent = &waited.responses[0].partitions[0];
    assert_eq!((silent.error_code, silent.records.as_ref().map_or(0, Bytes::len)), (0, 0));
    assert!(sent.elapsed().as_millis() >= 600, "the long poll did not wait, so that nothing had to wait for it");
    assert_eq!(connection.receive::<MetadataRequest>(12).await.unwrap().topics.len(), 2);
    assert_eq!(connection.receive::<ApiVersionsRequest>(0).await.unwrap().error_code, 0);
    let fetched = connection.receive::<FetchRequest>(12).await.unwrap();
    assert!(!fetched.responses[0].partitions[0].records.as_ref().unwrap().is_empty());
}
