//! Makes Rust of `proto/`, with the `protoc` that etcd's client needs too.

fn main() -> Result<(), std::io::Error> {
    tonic_prost_build::configure().compile_protos(&["proto/kafscale/control/v1/control.proto"], &["proto"])
}
