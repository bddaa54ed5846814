//! The traces that records name: the `traceparent` header of the first record of a batch, read in place.
//!
//! Only of sampled requests, only if it was opted in, and never of compressed batches, since what is in there costs too much to
//! look at. Nothing is changed: headers are the producer's and the consumer's.

use super::context::TraceContext;
use super::settings;
use crate::protocol::batch::{BatchHeader, HEADER_LEN};
use crate::protocol::records::{self, Records};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Links from one request to traces that its batches name.
const PEEKED_MAX: usize = 16;
/// A record with more headers is not looked at.
const HEADERS_MAX: i32 = 64;
const HEADER: &[u8] = b"traceparent";

/// Links the span of a request to the traces that `batches` name, if that is wanted and it is sampled.
pub fn link_records<'a>(request: &Span, batches: impl Iterator<Item = (&'a BatchHeader, &'a [u8])>) {
    if request.is_disabled() || !settings::tracing().is_some_and(|tracing| tracing.peek_headers) {
        return;
    }
    let mut links: Vec<TraceContext> = Vec::new();
    for context in batches.filter_map(|(header, batch)| named(header, batch)) {
        if links.len() == PEEKED_MAX {
            break;
        }
        if !links.contains(&context) {
            links.push(context);
        }
    }
    links.into_iter().for_each(|context| request.add_link(context.context()));
}

/// The trace that the first record of a batch names.
fn named(header: &BatchHeader, batch: &[u8]) -> Option<TraceContext> {
    if header.codec() != 0 {
        return None;
    }
    let bytes = batch.get(HEADER_LEN..)?;
    let record = Records::new(bytes, header.record_count).next()?.ok()?;
    if record.header_count > HEADERS_MAX {
        return None;
    }
    let headers = records::headers(bytes, &record);
    let (_, value) = headers.into_iter().find(|(name, _)| bytes.get(name.clone()) == Some(HEADER))?;
    TraceContext::from_traceparent(bytes.get(value?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::compression::Codec;
    use crate::protocol::records::BatchBuilder;

    const PARENT: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn name_of(builder: &BatchBuilder) -> Option<TraceContext> {
        let batch = builder.build();
        named(&BatchHeader::parse(&batch).unwrap(), &batch)
    }

    #[test]
    fn the_first_record_names_the_trace() {
        let mut builder = BatchBuilder::new();
        builder.push_with_headers(1, Some(b"key"), Some(b"value"), &[(b"other", None), (HEADER, Some(PARENT))]);
        builder.push(2, None, Some(b"without"));
        assert_eq!(name_of(&builder), TraceContext::from_traceparent(PARENT));
        assert!(name_of(&builder).is_some());
    }

    #[test]
    fn what_is_compressed_or_not_there_or_no_trace_names_nothing() {
        let with = |headers: &[(&[u8], Option<&[u8]>)]| {
            let mut builder = BatchBuilder::new();
            builder.push_with_headers(1, None, None, headers);
            builder
        };
        assert_eq!(name_of(&with(&[])), None);
        assert_eq!(name_of(&with(&[(HEADER, None)])), None);
        assert_eq!(name_of(&with(&[(HEADER, Some(b"00-1-2-03"))])), None);
        assert_eq!(name_of(&with(&[(b"Traceparent", Some(PARENT))])), None);
        assert_eq!(name_of(&with(&[(&b"x"[..], None); 65])), None, "more headers than are looked at");
        assert_eq!(name_of(&with(&[(HEADER, Some(PARENT))]).codec(Codec::Gzip)), None);
    }
}
