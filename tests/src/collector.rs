//! A collector of spans, as OpenTelemetry's programs have them: OTLP over HTTP.

use actix_web::{App, HttpResponse, HttpServer, web};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message as _;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

/// One span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Which program wrote it.
    pub service: String,
    /// Its name.
    pub name: String,
    /// Its trace, 16 bytes.
    pub trace: Vec<u8>,
    /// Itself, 8 bytes.
    pub id: Vec<u8>,
    /// Its parent's id, empty without one.
    pub parent: Vec<u8>,
    /// The spans that it points to.
    pub links: Vec<Vec<u8>>,
    /// Begin and end in nanoseconds since 1970.
    pub time: (u64, u64),
}

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    received: Arc<Mutex<Received>>,
}

#[derive(Debug, Default)]
struct Received {
    spans: Vec<Span>,
    /// Everything as it came, to be looked through.
    raw: Vec<u8>,
}

impl Collector {
    /// On a free port.
    pub fn start() -> Self {
        let received = Arc::<Mutex<Received>>::default();
        let shared = web::Data::from(received.clone());
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            let server = HttpServer::new(move || {
                App::new()
                    .app_data(shared.clone())
                    .app_data(web::PayloadConfig::new(64 * 1024 * 1024))
                    .route("/v1/traces", web::post().to(take))
            });
            let server = server.workers(1).disable_signals();
            let server = server.listen(listener).expect("it listens").run();
            actix_web::rt::System::new().block_on(server)
        });
        Self { address, received }
    }

    /// What programs are told.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All that have come.
    pub fn spans(&self) -> Vec<Span> {
        self.received.lock().expect("no panic").spans.clone()
    }

    /// Whether this text stands anywhere in what has come.
    pub fn has_text(&self, text: &str) -> bool {
        let received = self.received.lock().expect("no panic");
        let mut windows = received.raw.windows(text.len());
        windows.any(|window| window == text.as_bytes())
    }
}

async fn take(received: web::Data<Mutex<Received>>, body: web::Bytes) -> HttpResponse {
    let Ok(request) = ExportTraceServiceRequest::decode(body.clone()) else {
        return HttpResponse::BadRequest().finish();
    };
    let mut received = received.lock().expect("no panic");
    received.raw.extend_from_slice(&body);
    for resource in request.resource_spans {
        let attributes = resource.resource.unwrap_or_default().attributes;
        let service = attributes
            .into_iter()
            .find(|attribute| attribute.key == "service.name")
            .and_then(|attribute| attribute.value?.value);
        let Some(Value::StringValue(service)) = service else {
            return HttpResponse::BadRequest().finish();
        };
        for span in resource
            .scope_spans
            .into_iter()
            .flat_map(|scope| scope.spans)
        {
            received.spans.push(Span {
                service: service.clone(),
                name: span.name,
                trace: span.trace_id,
                id: span.span_id,
                parent: span.parent_span_id,
                links: span.links.into_iter().map(|link| link.span_id).collect(),
                time: (span.start_time_unix_nano, span.end_time_unix_nano),
            });
        }
    }
    HttpResponse::Ok().finish()
}
