//! Who belongs to which trace: small values that cross threads and actors inside messages.

use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::SpanData;
use std::fmt;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Links from one flush to sampled requests whose batches it carries.
pub const LINKS_MAX: usize = 128;
/// Other requests that a flush remembers, the first ones, in case that they will have been slow.
const CANDIDATES_MAX: usize = 64;
/// Attribute of a flush: how long its oldest batch had waited when it began, ms.
pub const AGE_MS: &str = "kafscale.segment.age_ms";
/// Attribute of a link: how long the request's batch had waited when the flush began, ms.
const WAITED_MS: &str = "kafscale.wait_ms";

/// Names a span: of a trace that is made, or, not sampled, of one that will be made only if it turns out slow. Or nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TraceContext {
    trace: [u8; 16],
    span: [u8; 8],
    sampled: bool,
}

impl TraceContext {
    /// Nothing.
    pub const NONE: Self = Self { trace: [0; 16], span: [0; 8], sampled: false };

    /// Of ids that came from somewhere.
    pub const fn from_bytes(trace: [u8; 16], span: [u8; 8], sampled: bool) -> Self {
        Self { trace, span, sampled }
    }

    /// New ids for a trace that is not made yet.
    pub fn undecided() -> Self {
        let (high, low) = (crate::rng::u64(), crate::rng::u64() | 1);
        let trace = ((u128::from(high) << 64) | u128::from(low)).to_be_bytes();
        Self { trace, span: (crate::rng::u64() | 1).to_be_bytes(), sampled: false }
    }

    /// Of a span, if it is sampled.
    pub fn of(span: &Span) -> Self {
        if span.is_disabled() {
            return Self::NONE;
        }
        let context = span.context();
        let context = context.span().span_context().clone();
        match context.is_sampled() {
            true => Self::from_bytes(context.trace_id().to_bytes(), context.span_id().to_bytes(), true),
            false => Self::NONE,
        }
    }

    /// Of the span in which the caller runs, if there is one and it is sampled.
    pub fn current() -> Self {
        Self::of(&Span::current())
    }

    /// True if the trace is made.
    pub fn is_sampled(self) -> bool {
        self.sampled
    }

    /// True if it depends on how long it takes whether the trace is made.
    pub fn is_undecided(self) -> bool {
        !self.sampled && self.trace != [0; 16]
    }

    /// The trace.
    pub fn trace_id(self) -> TraceId {
        TraceId::from_bytes(self.trace)
    }

    /// The span.
    pub fn span_id(self) -> SpanId {
        SpanId::from_bytes(self.span)
    }

    /// True if `span` is where its trace begins.
    pub fn is_root(span: &SpanData) -> bool {
        span.parent_span_id == SpanId::INVALID
    }

    /// Makes `span` a part of this trace, below the span that is named here.
    pub(super) fn adopt(self, span: &Span) {
        // It can only fail for a span that has begun or that nobody listens to.
        let _same = span.set_parent(Context::new().with_remote_span_context(self.context()));
    }

    pub(super) fn context(self) -> SpanContext {
        let flags = if self.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
        SpanContext::new(self.trace_id(), self.span_id(), flags, false, TraceState::NONE)
    }

    /// Reads a `traceparent` of the W3C's format.
    pub fn from_traceparent(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text.get(..55)?).ok()?;
        let hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let mut parts = text.split('-');
        let [version, trace, span, flags] = [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
        let shaped = (version.len(), trace.len(), span.len(), flags.len()) == (2, 32, 16, 2) && parts.next().is_none();
        if !shaped || version == "ff" || ![version, trace, span, flags].into_iter().all(hex) {
            return None;
        }
        let trace = u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?;
        let span = u64::from_str_radix(span, 16).ok().filter(|id| *id != 0)?;
        let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        Some(Self::from_bytes(trace.to_be_bytes(), span.to_be_bytes(), sampled))
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.trace_id(), self.span_id())
    }
}

/// The requests whose batches a segment carries: up to [`LINKS_MAX`] sampled ones, and a few of the others.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Links {
    sampled: Vec<(TraceContext, u64)>,
    undecided: Vec<(TraceContext, u64)>,
    pub(super) left_out: u64,
}

impl Links {
    /// Adds a request whose batch came at `now_us`, unless it leads nowhere or is here already. A request's batches arrive
    /// in a row, so one that is left out is counted about once.
    pub fn add(&mut self, context: TraceContext, now_us: u64) {
        let (links, max) = match context {
            TraceContext::NONE => return,
            context if context.is_sampled() => (&mut self.sampled, LINKS_MAX),
            _ => (&mut self.undecided, CANDIDATES_MAX),
        };
        if links.len() < max {
            if !links.iter().any(|(known, _)| *known == context) {
                links.push((context, now_us));
            }
        } else if context.is_sampled() && !links.iter().any(|(known, _)| *known == context) {
            self.left_out += 1;
        }
    }

    /// Tells them to the span of a flush that begins at `now_us`. Which of those that are not sampled are kept is decided when it
    /// ends: [`keep_slow_links`].
    pub(super) fn tell(&self, span: &Span, now_us: u64) {
        let room = LINKS_MAX - self.sampled.len();
        for (context, since_us) in self.sampled.iter().chain(self.undecided.iter().take(room)) {
            let waited_ms = now_us.saturating_sub(*since_us) as f64 / 1e3;
            span.add_link_with_attributes(context.context(), vec![KeyValue::new(WAITED_MS, waited_ms)]);
        }
    }
}

/// When a flush counts as slow. Requests that wait for it take a little longer than it: none of them shall miss it.
pub fn slow_flush(slow: std::time::Duration) -> std::time::Duration {
    slow * 9 / 10
}

/// Removes links to requests of which no trace is made: they were not sampled and, as the flush has ended now, not slow.
pub fn keep_slow_links(flush: &mut SpanData, slow: Option<std::time::Duration>) {
    if flush.links.iter().all(|link| link.span_context.is_sampled()) {
        return;
    }
    let own_ms = flush.end_time.duration_since(flush.start_time).unwrap_or_default().as_secs_f64() * 1e3;
    let from_ms = slow.map(|slow| slow_flush(slow).as_secs_f64() * 1e3);
    flush.links.links.retain_mut(|link| {
        if link.span_context.is_sampled() {
            return true;
        }
        let waited_ms = link.attributes.iter().find(|a| a.key.as_str() == WAITED_MS).map_or(0.0, |a| match a.value {
            opentelemetry::Value::F64(ms) => ms,
            _ => 0.0,
        });
        let (trace, span) = (link.span_context.trace_id(), link.span_context.span_id());
        link.span_context = SpanContext::new(trace, span, TraceFlags::SAMPLED, false, TraceState::NONE);
        from_ms.is_some_and(|from_ms| waited_ms + own_ms >= from_ms)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampled(n: u8) -> TraceContext {
        TraceContext::from_bytes([n; 16], [n; 8], true)
    }

    #[test]
    fn links_are_few_and_different() {
        let mut links = Links::default();
        links.add(TraceContext::NONE, 1);
        assert_eq!(links, Links::default());
        for n in 1..=140 {
            links.add(sampled(n), 1);
            links.add(sampled(n.min(LINKS_MAX as u8)), 1);
            links.add(TraceContext { sampled: false, ..sampled(n) }, 1);
        }
        assert_eq!((links.sampled.len(), links.undecided.len(), links.left_out), (LINKS_MAX, CANDIDATES_MAX, 12));
    }

    #[test]
    fn undecided_ids_are_valid_and_different() {
        let (a, b) = (TraceContext::undecided(), TraceContext::undecided());
        assert!(a.is_undecided() && !a.is_sampled() && a.context().is_valid());
        assert_ne!(a, b);
        assert!(!TraceContext::NONE.is_undecided());
    }

    #[test]
    fn traceparents_are_read_as_the_specification_has_them() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = TraceContext::from_traceparent(good.as_bytes()).unwrap();
        assert_eq!(context.to_string(), "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331");
        assert!(context.is_sampled());
        let unsampled = good.replace("-01", "-00");
        assert!(!TraceContext::from_traceparent(unsampled.as_bytes()).unwrap().is_sampled());
        for wrong in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319cb7ad6b716920333100-01",
        ] {
            assert_eq!(TraceContext::from_traceparent(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
