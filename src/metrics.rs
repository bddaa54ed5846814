//! The metrics of the process, as one text in the OpenMetrics format.
//!
//! Modules that count own plain atomics or a [`Histogram`] of them; whoever assembles the process registers a function
//! per module that turns them into [`Families`] when somebody scrapes. Nothing is looked up or locked on a hot path. Names and units follow Prometheus: base units, counters end in `_total` (added here), `process_*` as other
//! clients call them.

mod histogram;

pub use histogram::{Bytes, Histogram, Scale, Seconds};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Mutex;

/// Content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Names and values of labels.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// The process's own metrics and `kafscale_build_info`.
    pub fn new() -> Self {
        let metrics = Self { registry: Mutex::new(Registry::default()) };
        metrics.register("build", |families| {
            let labels: Labels = &[("version", env!("CARGO_PKG_VERSION"))];
            families.gauges("kafscale_build_info", "Version of the program", [(labels, 1.0)])
        });
        metrics.register("process", process::encode);
        metrics.register("traces", crate::telemetry::encode);
        metrics
    }

    /// Adds what `encode` writes to every scrape; `name` is for `Debug` only.
    pub fn register<F>(&self, name: &'static str, encode: F)
    where
        F: Fn(&mut Families<'_>) -> fmt::Result + Send + Sync + 'static,
    {
        self.register_collector(Box::new(FnCollector { name, encode }));
    }

    /// Adds a collector of prometheus-client.
    pub fn register_collector(&self, collector: Box<dyn Collector>) {
        self.registry.lock().expect("no panic under the lock").register_collector(collector);
    }

    /// Gives access to the registry, for metrics that are typed handles of prometheus-client.
    pub fn with_registry<T>(&self, f: impl FnOnce(&mut Registry) -> T) -> T {
        f(&mut self.registry.lock().expect("no panic under the lock"))
    }

    /// The current values as text.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut out = String::with_capacity(16 << 10);
        text::encode(&mut out, &self.registry.lock().expect("no panic under the lock"))?;
        Ok(out)
    }
}

struct FnCollector<F> {
    name: &'static str,
    encode: F,
}

impl<F> fmt::Debug for FnCollector<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FnCollector({})", self.name)
    }
}

impl<F> Collector for FnCollector<F>
where
    F: Fn(&mut Families<'_>) -> fmt::Result + Send + Sync + 'static,
{
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        (self.encode)(&mut Families { encoder })
    }
}

/// Writes metric families; each name once per scrape.
#[derive(Debug)]
pub struct Families<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl Families<'_> {
    /// A counter without labels. `name` comes without `_total`.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        count(&mut metric, value as f64)
    }

    /// A counter with a fraction (seconds) and no labels. `name` comes without `_total`.
    pub fn counter_f64(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        count(&mut metric, value)
    }

    /// A counter per label set. `name` comes without `_total`.
    pub fn counters<'l>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        values.into_iter().try_for_each(|(labels, value)| count(&mut metric.encode_family(&labels)?, value as f64))
    }

    /// A gauge without labels.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    /// A gauge per label set.
    pub fn gauges<'l>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'l>, f64)>,
    ) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        values.into_iter().try_for_each(|(labels, value)| metric.encode_family(&labels)?.encode_gauge(&value))
    }

    /// A histogram without labels.
    pub fn histogram(&mut self, name: &str, help: &str, sample: &HistogramSample) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        metric.encode_histogram::<Vec<(&str, &str)>>(sample.sum, sample.count(), &sample.buckets, None)
    }

    /// A histogram per label set.
    pub fn histograms<'l>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'l>, HistogramSample)>,
    ) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        values.into_iter().try_for_each(|(labels, sample)| {
            let mut one = metric.encode_family(&labels)?;
            one.encode_histogram::<Vec<(&str, &str)>>(sample.sum, sample.count(), &sample.buckets, None)
        })
    }
}

/// A histogram at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramSample {
    /// Sum of all observations, in the unit of the name.
    pub sum: f64,
    /// Inclusive upper bound and number of observations of each bucket alone (not cumulative), in rising order; the last
    /// bound is `f64::INFINITY`.
    pub buckets: Vec<(f64, u64)>,
}

impl HistogramSample {
    fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }
}

fn count(metric: &mut MetricEncoder<'_>, value: f64) -> fmt::Result {
    // Whole numbers stay whole in the text, so that scrapes can be read and compared by eye.
    if value.fract() == 0.0 && value < u64::MAX as f64 {
        metric.encode_counter::<Vec<(&str, &str)>, u64, f64>(&(value as u64), None)
    } else {
        metric.encode_counter::<Vec<(&str, &str)>, f64, f64>(&value, None)
    }
}

/// What `/proc/self` says. A value that cannot be read is left out.
mod process {
    use super::Families;
    use std::fmt;

    /// Ticks per second of the times in `/proc`: fixed by Linux's interface to user space.
    const TICKS_PER_SEC: f64 = 100.0;

    pub fn encode(families: &mut Families<'_>) -> fmt::Result {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let (stat, status) = (read("/proc/self/stat"), read("/proc/self/status"));
        if let Some(seconds) = cpu_seconds(&stat) {
            let help = "User and system CPU time spent in seconds";
            families.counter_f64("process_cpu_seconds", help, seconds)?;
        }
        if let Some(seconds) = start_time_seconds(&stat, &read("/proc/stat")) {
            let help = "Start time of the process since the Unix epoch in seconds";
            families.gauge("process_start_time_seconds", help, seconds)?;
        }
        let mut status_gauge = |field: &str, name: &str, help: &str, unit: f64| match status_field(&status, field) {
            Some(value) => families.gauge(name, help, value * unit),
            None => Ok(()),
        };
        status_gauge("VmRSS:", "process_resident_memory_bytes", "Resident memory size in bytes", 1024.0)?;
        status_gauge(
            "VmHWM:",
            "process_resident_memory_max_bytes",
            "Peak of the resident memory size in bytes",
            1024.0,
        )?;
        status_gauge("VmSize:", "process_virtual_memory_bytes", "Virtual memory size in bytes", 1024.0)?;
        status_gauge("Threads:", "process_threads", "Number of threads", 1.0)?;
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            // One of them is the directory that is being read.
            let open = entries.count().saturating_sub(1);
            families.gauge("process_open_fds", "Number of open file descriptors", open as f64)?;
        }
        match limit(&read("/proc/self/limits"), "Max open files") {
            Some(max) => families.gauge("process_max_fds", "Maximum number of open file descriptors", max),
            None => Ok(()),
        }
    }

    /// Field `number` of `/proc/self/stat`, counted from 1 as in proc(5). The second field may contain spaces.
    fn stat_field(stat: &str, number: usize) -> Option<f64> {
        let (_, rest) = stat.rsplit_once(')')?;
        rest.split_whitespace().nth(number - 3)?.parse().ok()
    }

    pub(super) fn cpu_seconds(stat: &str) -> Option<f64> {
        Some((stat_field(stat, 14)? + stat_field(stat, 15)?) / TICKS_PER_SEC)
    }

    pub(super) fn start_time_seconds(stat: &str, system_stat: &str) -> Option<f64> {
        let boot = system_stat.lines().find_map(|line| line.strip_prefix("btime "))?;
        Some(boot.trim().parse::<f64>().ok()? + stat_field(stat, 22)? / TICKS_PER_SEC)
    }

    pub(super) fn status_field(status: &str, field: &str) -> Option<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        line.split_whitespace().next()?.parse().ok()
    }

    pub(super) fn limit(limits: &str, field: &str) -> Option<f64> {
        let line = limits.lines().find_map(|line| line.strip_prefix(field))?;
        line.split_whitespace().next()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_what_is_registered_with_suffixes_and_labels() {
        let metrics = Metrics::new();
        metrics.register("test", |families| {
            families.counter("t_requests", "Requests", 7)?;
            families.counters(
                "t_errors",
                "Errors",
                [(&[("api", "Fetch")] as Labels, 1), (&[("api", "Produce")], 2)],
            )?;
            families.gauge("t_depth", "Depth", 1.5)?;
            let sample = HistogramSample { sum: 0.75, buckets: vec![(0.1, 2), (f64::INFINITY, 1)] };
            families.histogram("t_size_bytes", "Size", &sample)?;
            families.histograms("t_wait_seconds", "Wait", [(&[("api", "Fetch")] as Labels, sample)])
        });
        let text = metrics.render().unwrap();
        for line in [
            "t_requests_total 7",
            "t_errors_total{api=\"Fetch\"} 1",
            "t_errors_total{api=\"Produce\"} 2",
            "t_depth 1.5",
            "t_size_bytes_bucket{le=\"+Inf\"} 3",
            "t_size_bytes_sum 0.75",
            "t_wait_seconds_bucket{le=\"0.1\",api=\"Fetch\"} 2",
            "t_wait_seconds_bucket{le=\"+Inf\",api=\"Fetch\"} 3",
            "t_wait_seconds_count{api=\"Fetch\"} 3",
            concat!("kafscale_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1.0"),
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn shows_this_process() {
        let text = Metrics::new().render().unwrap();
        let value = |name: &str| -> f64 {
            let line = text.lines().find(|l| l.split(' ').next() == Some(name));
            line.unwrap_or_else(|| panic!("{name} is missing in\n{text}")).split(' ').nth(1).unwrap().parse().unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_resident_memory_max_bytes") >= value("process_resident_memory_bytes"));
        assert!(value("process_start_time_seconds") > 1.7e9);
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_max_fds") >= value("process_open_fds"));
        assert!(value("process_cpu_seconds_total") >= 0.0);
        assert!(value("process_threads") >= 1.0);
    }

    #[test]
    fn reads_proc_even_if_the_program_has_an_odd_name() {
        let stat = "42 (a) b c) S 1 42 42 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 5 0 9000 1000 10";
        assert_eq!(process::cpu_seconds(stat), Some(2.0));
        assert_eq!(process::start_time_seconds(stat, "cpu 1\nbtime 1000\nprocesses 5\n"), Some(1090.0));
        assert_eq!(process::status_field("VmSize:\t  10 kB\nVmRSS:\t   7 kB\n", "VmRSS:"), Some(7.0));
        let limits = "Limit  Soft\nMax open files            1024                 4096                 files\n";
        assert_eq!(process::limit(limits, "Max open files"), Some(1024.0));
        assert_eq!(process::limit("Max open files  unlimited unlimited files", "Max open files"), None);
        assert_eq!(process::cpu_seconds(""), None);
    }
}
