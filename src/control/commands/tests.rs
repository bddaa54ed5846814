use super::*;

fn status_of(state: BrokerState) -> StatusResponse {
    StatusResponse {
        broker_id: 2,
        rack: "a".into(),
        version: "0.1.0".into(),
        state: state.into(),
        partitions: 12,
        coordinator_shards: 1,
        object_store: ObjectStoreHealth::Healthy.into(),
        writer_id: 7,
        writer_head: 41,
        unflushed_bytes: 1,
        uptime_ms: 61_500,
        cluster_id: "AbCdEfGhIjKlMnOpQrStUv".into(),
    }
}

#[test]
fn a_status_can_be_read_by_people_and_by_programs() {
    let status = status_of(BrokerState::InDoubt);
    let text = status_text(&status);
    for line in ["state               in doubt", "writer              7, head 41", "up for              61 s"] {
        assert!(text.lines().any(|l| l == line), "{line:?} is not in\n{text}");
    }
    let json: serde_json::Value = serde_json::from_str(&status_json(&status)).unwrap();
    assert_eq!((&json["state"], &json["writer_head"], &json["rack"]), (&"in_doubt".into(), &41.into(), &"a".into()));
    let nowhere = StatusResponse { rack: String::new(), state: 99, ..status };
    let json: serde_json::Value = serde_json::from_str(&status_json(&nowhere)).unwrap();
    assert_eq!((&json["rack"], &json["state"]), (&serde_json::Value::Null, &"unknown".into()), "of a later version");
}

#[test]
fn progress_can_be_read_by_people_and_by_programs() {
    let status = status_of(BrokerState::Draining);
    let mut progress = DrainProgress {
        phase: Phase::HandingOver.into(),
        partitions_left: 12,
        coordinator_shards_left: 1,
        inflight_bytes: 500,
    };
    let text = progress_text(&status, &progress);
    assert_eq!(text, "broker 2: 12 partitions and 1 coordinator shard left, 500 bytes in flight");
    let json: serde_json::Value = serde_json::from_str(&progress_json(&status, &progress)).unwrap();
    let expected =
        r#"{"broker":2,"phase":"handing_over","partitions_left":12,"coordinator_shards_left":1,"inflight_bytes":500}"#;
    assert_eq!(json, serde_json::from_str::<serde_json::Value>(expected).unwrap());
    progress.phase = Phase::Drained.into();
    assert!(progress_text(&status, &progress).starts_with("broker 2 is drained"));
}

#[test]
fn exit_codes_tell_what_can_be_done() {
    let cases = [
        (CommandError::Config(Vec::new()), 78),
        (CommandError::Etcd("gone".into()), 69),
        (CommandError::Find(FindError::NoControl(BrokerId(1))), 69),
        (CommandError::Unreachable { address: "a:1".into(), reason: "refused".into() }, 69),
        (CommandError::WrongBroker { address: "a:1".into(), found: 1, wanted: BrokerId(2) }, 69),
        (CommandError::Refused(Status::failed_precondition("alone")), 77),
        (CommandError::Refused(Status::aborted("called off")), 75),
        (CommandError::Refused(Status::unavailable("stopping")), 69),
        (CommandError::TimedOut(5), 75),
        (CommandError::Silent, 75),
    ];
    for (error, code) in cases {
        assert_eq!(error.exit_code(), code, "{error}");
    }
}
