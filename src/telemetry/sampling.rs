//! Which traces are made, and which are made for the case that they turn out slow.

use crate::config::telemetry::Share;
use crate::trace::REQUEST;
use opentelemetry::trace::{Link, SpanKind, TraceContextExt, TraceId, TraceState};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{SamplingDecision, SamplingResult, ShouldSample};

/// Decides at the start of a span.
///
/// - A span with a parent is what its parent is.
/// - A request has drawn before it began, and has a span only if it is sampled.
/// - A flush that carries a batch of a sampled request is sampled, so that such a request can be followed.
/// - Any other root draws. One that draws badly is recorded all the same, in case that it is slow.
#[derive(Debug, Clone)]
pub struct Sampler {
    /// Roots that are sampled.
    pub share: Share,
    /// Others are recorded.
    pub records: bool,
}

impl Sampler {
    fn decide(&self, parent: Option<&Context>, name: &str, links: &[Link]) -> SamplingDecision {
        let otherwise = if self.records { SamplingDecision::RecordOnly } else { SamplingDecision::Drop };
        let parent = parent.map(|cx| cx.span().span_context().clone()).filter(|parent| parent.is_valid());
        let sampled = match parent {
            Some(parent) => parent.is_sampled(),
            None => {
                name.starts_with(REQUEST)
                    || links.iter().any(|link| link.span_context.is_sampled())
                    || self.share.keeps(crate::rng::u64())
            }
        };
        if sampled { SamplingDecision::RecordAndSample } else { otherwise }
    }
}

impl ShouldSample for Sampler {
    fn should_sample(
        &self,
        parent_context: Option<&Context>,
        _: TraceId,
        name: &str,
        _: &SpanKind,
        _: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let decision = self.decide(parent_context, name, links);
        SamplingResult { decision, attributes: Vec::new(), trace_state: TraceState::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::trace::{SpanContext, SpanId, TraceFlags};

    fn context(flags: TraceFlags) -> SpanContext {
        SpanContext::new(TraceId::from_bytes([1; 16]), SpanId::from_bytes([2; 8]), flags, false, TraceState::NONE)
    }

    #[test]
    fn what_begins_a_trace_draws_and_what_follows_does_as_its_parent() {
        use SamplingDecision::{Drop, RecordAndSample, RecordOnly};
        let (sampled, unsampled) = (TraceFlags::SAMPLED, TraceFlags::default());
        let under = |flags| Context::new().with_remote_span_context(context(flags));
        let link = |flags| vec![Link::with_context(context(flags))];
        let table = [
            (Share::NONE, true, None, "segment.flush", vec![], RecordOnly),
            (Share::NONE, false, None, "segment.flush", vec![], Drop),
            (Share::ALL, false, None, "segment.flush", vec![], RecordAndSample),
            (Share::NONE, true, None, "segment.flush", link(sampled), RecordAndSample),
            (Share::NONE, true, None, "segment.flush", link(unsampled), RecordOnly),
            (Share::NONE, true, None, "kafka.request Produce", vec![], RecordAndSample),
            (Share::NONE, true, Some(under(sampled)), "s3.put", vec![], RecordAndSample),
            (Share::ALL, true, Some(under(unsampled)), "s3.put", vec![], RecordOnly),
            (Share::ALL, false, Some(under(unsampled)), "s3.put", vec![], Drop),
        ];
        for (index, (share, records, parent, name, links, expected)) in table.into_iter().enumerate() {
            let decision = Sampler { share, records }.decide(parent.as_ref(), name, &links);
            assert_eq!(decision, expected, "case {index}");
        }
    }
}
