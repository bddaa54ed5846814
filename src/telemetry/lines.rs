//! Log lines that say to which trace they belong.

use crate::trace::TraceContext;
use std::fmt::{self, Write};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

/// Lines as `inner` makes them; what is logged within a span that is sampled also has its `trace_id` and `span_id`.
#[derive(Debug)]
pub struct WithTrace<F> {
    /// Makes lines.
    pub inner: F,
    /// Lines are JSON objects.
    pub is_json: bool,
}

impl<S, N, F> FormatEvent<S, N> for WithTrace<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let context = TraceContext::current();
        if !context.is_sampled() {
            return self.inner.format_event(ctx, writer, event);
        }
        let mut line = String::with_capacity(256);
        self.inner.format_event(ctx, Writer::new(&mut line), event)?;
        writer.write_str(&with_ids(&line, context, self.is_json))
    }
}

fn with_ids(line: &str, context: TraceContext, is_json: bool) -> String {
    let (trace, span) = (context.trace_id(), context.span_id());
    let mut out = String::with_capacity(line.len() + 96);
    let written = match line.strip_prefix('{').filter(|_| is_json) {
        Some(rest) => write!(out, "{{\"trace_id\":\"{trace}\",\"span_id\":\"{span}\",{rest}"),
        None => writeln!(out, "{} trace_id={trace} span_id={span}", line.trim_end_matches('\n')),
    };
    written.expect("writing to a string");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_members_of_the_object_or_stand_at_the_end_of_the_line() {
        let context = TraceContext::from_bytes([0xab; 16], [0x0c; 8], true);
        let (trace, span) = ("ab".repeat(16), "0c".repeat(8));
        let json = with_ids("{\"level\":\"INFO\"}\n", context, true);
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&value["trace_id"], &value["span_id"]), (&trace.clone().into(), &span.clone().into()));
        assert_eq!(value["level"], "INFO");
        assert!(json.ends_with("}\n"));
        let line = with_ids("INFO something happened n=1\n", context, false);
        assert_eq!(line, format!("INFO something happened n=1 trace_id={trace} span_id={span}\n"));
    }
}
