//! What the server tells of itself: `GET /metrics` on the operators' listener of
//! each of our processes, once a second. Counters become rates, sums and counts
//! of a histogram the mean of that second, gauges stay; labels are added up, and
//! so are processes. A server that is away, or has no such listener, tells
//! nothing.

use futures_util::future::join_all;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A server that needs longer tells nothing this second.
const PATIENCE: Duration = Duration::from_millis(800);

/// What every name begins with; left out in reports.
const PREFIX: &str = "oversync_";

/// The gauge that says what the allocator has given out.
const LIVE: &str = "live_bytes";

/// Where servers tell of themselves, and what to show them.
#[derive(Debug, Clone, Default)]
pub struct Operators {
    /// Of each process; others after a restart.
    pub addresses: Arc<Mutex<Vec<SocketAddr>>>,
    /// The operators' token.
    pub token: String,
}

impl Operators {
    /// Asks one process for its metrics, for as long as [`PATIENCE`].
    pub fn request(&self, http: &reqwest::Client, address: SocketAddr) -> reqwest::RequestBuilder {
        http.get(format!("http://{address}/metrics"))
            .bearer_auth(&self.token)
            .timeout(PATIENCE)
    }
}

/// Figures of one second by name: per second for what is counted, the mean for
/// what is measured, the value for what has one.
pub type Told = BTreeMap<String, f64>;

/// Asks, and remembers the last answers.
#[derive(Debug)]
pub struct Scraper {
    http: reqwest::Client,
    last: Option<(Instant, Totals)>,
}

/// By family, without labels: the value, and whether it counts up.
type Totals = HashMap<String, f64>;

/// Our own servers are on this machine, whatever proxy there is.
pub fn beside_us() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder().no_proxy().build()
}

impl Scraper {
    /// Nobody has answered yet. The error is the system's.
    pub fn new() -> anyhow::Result<Self> {
        let http = beside_us()?;
        Ok(Self { http, last: None })
    }

    /// All processes are others than before: what they count began at 0.
    pub fn began_anew(&mut self) {
        if let Some((_, totals)) = &mut self.last {
            totals.clear();
        }
    }

    /// Asks all processes; nothing unless all of them answer.
    pub async fn sample(&mut self, operators: &Operators) -> Told {
        let addresses = operators
            .addresses
            .lock()
            .expect("BUG: no panic under this lock")
            .clone();
        if addresses.is_empty() {
            return Told::new();
        }
        let asked = addresses
            .iter()
            .map(|address| operators.request(&self.http, *address).send());
        let mut totals = Totals::new();
        for answer in join_all(asked).await {
            let text = match answer {
                Ok(answer) if answer.status().is_success() => answer.text().await,
                _ => return Told::new(),
            };
            let Ok(text) = text else { return Told::new() };
            add_up(&text, &mut totals);
        }
        let now = Instant::now();
        let last = self.last.replace((now, totals));
        let (_, totals) = self.last.as_ref().expect("BUG: put there just now");
        told(
            totals,
            last.map(|(then, totals)| (now.duration_since(then).as_secs_f64(), totals)),
        )
    }
}

/// The allocator's count, of all processes together, where it is told.
pub fn live_bytes(told: &Told) -> Option<u64> {
    told.get(LIVE).map(|bytes| *bytes as u64)
}

/// Prometheus text: `name{labels} value`, comments and buckets left out.
fn add_up(text: &str, totals: &mut Totals) {
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        let value = line.rsplit(' ').next();
        let value = value.and_then(|value| value.parse::<f64>().ok());
        let (Some(name), Some(value)) = (name.strip_prefix(PREFIX), value) else {
            continue;
        };
        if !name.ends_with("_bucket") {
            *totals.entry(name.to_owned()).or_insert(0.0) += value;
        }
    }
}

/// What happened between two readings. A total that has become smaller belongs
/// to processes that were started again: it began at 0.
fn told(totals: &Totals, last: Option<(f64, Totals)>) -> Told {
    let since = |name: &str| {
        let now = totals.get(name).copied()?;
        let (_, before) = last.as_ref()?;
        let before = before.get(name).copied().unwrap_or(0.0);
        Some(if now < before { now } else { now - before })
    };
    let mut told = Told::new();
    for (name, value) in totals {
        if let Some(counted) = name.strip_suffix("_total") {
            if let (Some(new), Some((seconds, _))) = (since(name), &last) {
                told.insert(counted.to_owned(), new / seconds.max(0.001));
            }
        } else if let Some(measured) = name.strip_suffix("_sum") {
            let count = since(&format!("{measured}_count")).unwrap_or(0.0);
            if let Some(sum) = since(name).filter(|_| count > 0.0) {
                told.insert(measured.to_owned(), sum / count);
            }
        } else if !name.ends_with("_count") {
            told.insert(name.clone(), *value);
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP oversync_changes_total Changes\n# TYPE oversync_changes_total counter\n\
        oversync_changes_total{status=\"applied\"} 90\n\
        oversync_changes_total{status=\"a } b\"} 10\n\
        oversync_upload_seconds_bucket{le=\"0.1\"} 4\n\
        oversync_upload_seconds_sum 3\noversync_upload_seconds_count 6\n\
        oversync_live_bytes 5000\nsomebody_elses 7\n";

    #[test]
    fn counters_are_rates_and_histograms_means() {
        let (mut before, mut after) = (Totals::new(), Totals::new());
        add_up(TEXT, &mut before);
        let first = told(&before, None);
        assert_eq!(first, Told::from([("live_bytes".to_owned(), 5_000.0)]));
        // Two processes, and one of the labels has moved.
        let later = TEXT
            .replace("_sum 3", "_sum 8")
            .replace("_count 6", "_count 8");
        add_up(&later, &mut after);
        add_up(TEXT, &mut after);
        let now = told(&after, Some((2.0, before)));
        assert_eq!(live_bytes(&now), Some(10_000));
        assert_eq!(now["changes"], 50.0);
        assert_eq!(now["upload_seconds"], (11.0 - 3.0) / (14.0 - 6.0));
        // Started again: 3 s in 6 uploads since then.
        let mut restarted = Totals::new();
        add_up(TEXT, &mut restarted);
        let now = told(&restarted, Some((1.0, after)));
        assert_eq!((now["changes"], now["upload_seconds"]), (100.0, 0.5));
    }
}
