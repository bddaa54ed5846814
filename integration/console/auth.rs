//! Signing in and what protects a session. No broker is needed for that.

use super::process::{ADMIN, Console, VIEWER, logged, run};
use super::schema::Schemas;
use serde_json::json;

#[tokio::test]
async fn who_is_not_signed_in_sees_nothing_however_the_path_is_spelt() {
    let console = Console::start("console-closed", &[]).await;
    let browser = console.browser();
    for path in [
        "/api/v1/overview",
        "/api/v1/brokers",
        "/api/v1/brokers/1/drain",
        "/api/v1/settings",
        "/api/v1/audit",
        "/api/v1/openapi.json",
        "/api/v1/live",
        "/api/v1/nothing",
        "/api/v1/auth/session",
        "/ui/api/status",
        "/ui/api/metrics",
        "/ui/api/auth/session",
        "/api/v1/%6fverview",
        "/%61pi/v1/overview",
        "/api/v1/auth/config/../../overview",
        "/api/v1/auth/login/",
        "/api//v1/overview",
        "//api/v1/overview",
        "/api/v1/auth%2Fconfig",
    ] {
        let answer = browser.get(path).await;
        // Paths that lead to no route of the API show the (public) pages, or that there are none.
        let is_api = path.starts_with("/api/v1/") || path.starts_with("/ui/api/");
        let refused = answer.status == 401 && answer.code() == "unauthenticated";
        assert!(refused || (!is_api && !answer.header("content-type").contains("json")), "{path}: {answer:?}");
    }
    let config = browser.get("/api/v1/auth/config").await;
    assert_eq!(config.json(), json!({ "configured": true, "message": null, "viewer": true }));
    assert_eq!(browser.get("/ui/api/auth/config").await.json(), config.json());
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(browser.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_session_is_opened_used_and_ended() {
    let console = Console::start("console-session", &[]).await;
    let mut browser = console.browser();
    let answer = browser.login(ADMIN.0, ADMIN.1).await;
    let login = answer.json();
    assert_eq!((login["username"].as_str(), login["role"].as_str()), (Some(ADMIN.0), Some("admin")));
    let cookie = &answer.cookies[0];
    // To this machine's own address the cookie is not Secure, so that it works there.
    assert!(cookie.starts_with("kafscale_session=") && cookie.contains("HttpOnly"), "{cookie}");
    assert!(cookie.contains("SameSite=Strict") && cookie.contains("Path=/") && !cookie.contains("Secure"), "{cookie}");
    let session = browser.api("/auth/session").await;
    assert_eq!((&session["csrf_token"], &session["expires_at_ms"]), (&login["csrf_token"], &login["expires_at_ms"]));
    // Signing in again ends the former session.
    let former = browser.clone();
    assert_eq!(browser.login(ADMIN.0, ADMIN.1).await.status, 200);
    assert_ne!(former.cookie, browser.cookie);
    assert_eq!(former.get("/api/v1/auth/session").await.status, 401);
    let other = console.admin().await;
    assert_eq!(browser.post("/auth/logout", &json!({})).await.status, 204);
    assert_eq!(browser.get("/api/v1/auth/session").await.status, 401);
    assert_eq!(other.get("/api/v1/auth/session").await.status, 200);
    let (third, viewer) = (console.admin().await, console.viewer().await);
    let ended = third.post("/auth/logout-everywhere", &json!({})).await;
    assert_eq!((ended.status, ended.cookies.len()), (204, 2), "the cookies are removed");
    assert_eq!(other.get("/api/v1/auth/session").await.status, 401);
    assert_eq!(viewer.get("/api/v1/auth/session").await.status, 200, "of others nothing ends");
    for forged in ["kafscale_session=", "kafscale_session=AAAA", "__Host-kafscale_session=x"] {
        let browser = super::browser::Browser { cookie: Some(forged.into()), ..console.browser() };
        assert_eq!(browser.get("/api/v1/auth/session").await.status, 401, "{forged}");
    }
}

#[tokio::test]
async fn over_https_the_cookie_is_for_https_only() {
    let console = Console::start("console-https", &[("KAFSCALE_CONSOLE_TRUSTED_PROXIES", "127.0.0.0/8")]).await;
    let mut browser = console.browser().with("X-Forwarded-Proto", "https");
    browser.host = "console.example.com".into();
    let answer = browser.login(ADMIN.0, ADMIN.1).await;
    let cookie = &answer.cookies[0];
    assert!(cookie.starts_with("__Host-kafscale_session=") && cookie.contains("Secure"), "{cookie}");
    assert_eq!(answer.header("strict-transport-security"), "max-age=31536000");
    assert_eq!(browser.get("/api/v1/auth/session").await.status, 200);
    // Plain HTTP to another machine: the browser would not send the cookie back, which is said.
    let mut plain = console.browser().with("Origin", "http://10.0.0.9:8080");
    plain.host = "10.0.0.9:8080".into();
    let answer = plain.login(ADMIN.0, ADMIN.1).await;
    assert!(answer.status == 400 && answer.json()["detail"].as_str().unwrap().contains("COOKIE_SECURE=false"));
    let told = Console::start("console-plain", &[("KAFSCALE_CONSOLE_COOKIE_SECURE", "false")]).await;
    let mut plain = super::browser::Browser { address: told.address.clone(), ..plain };
    assert_eq!(plain.login(ADMIN.0, ADMIN.1).await.status, 200);
}

/// What is tried, with which headers, and the status and code of the answer.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], u16, &'a str);

#[tokio::test]
async fn writing_needs_the_token_the_same_origin_json_and_an_administrator() {
    let console = Console::start("console-csrf", &[]).await;
    let (admin, viewer) = (console.admin().await, console.viewer().await);
    let token = admin.csrf.clone().unwrap();
    let origin = format!("http://{}", console.address);
    let json = ("Content-Type", "application/json");
    let path = "/api/v1/brokers/1/drain";
    let table: [Case<'_>; 7] = [
        ("no token", &[json], 403, "csrf"),
        ("another token", &[json, ("X-CSRF-Token", "x")], 403, "csrf"),
        ("no JSON", &[("X-CSRF-Token", &token), ("Content-Type", "text/plain")], 415, "invalid"),
        ("another site", &[json, ("X-CSRF-Token", &token), ("Sec-Fetch-Site", "cross-site")], 403, "csrf"),
        ("another origin", &[json, ("X-CSRF-Token", &token), ("Origin", "http://evil.example")], 403, "csrf"),
        ("no origin at all", &[json, ("X-CSRF-Token", &token), ("Origin", "null")], 403, "csrf"),
        // Let in, and then there is no etcd that would know the broker.
        ("right", &[json, ("X-CSRF-Token", &token), ("Origin", &origin)], 503, "unavailable"),
    ];
    let schemas = Schemas::of(&admin).await;
    for (what, headers, status, code) in table {
        let answer = admin.send("POST", path, headers, r#"{"confirm":"1"}"#).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{what}");
        schemas.check_problem(&answer.json());
        assert_eq!(answer.json()["request_id"].as_str(), Some(answer.header("x-request-id")), "{what}");
    }
    let answer = viewer.post("/brokers/1/drain", &serde_json::json!({ "confirm": "1" })).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "forbidden"));
    assert_eq!(viewer.get("/api/v1/overview").await.status, 200);
    // Also signing in is not for other sites.
    let evil = console.browser().with("Origin", "http://evil.example");
    let body = serde_json::json!({ "username": ADMIN.0, "password": ADMIN.1 });
    assert_eq!(evil.post("/auth/login", &body).await.code(), "csrf");
    assert_eq!(admin.post("/brokers/x/undrain", &serde_json::json!({})).await.status, 404);
    let large = "x".repeat(100_000);
    let answer = console.browser().post("/auth/login", &serde_json::json!({ "username": large, "password": "" })).await;
    assert_eq!((answer.status, answer.code().as_str()), (413, "invalid"));
    let answer = console.browser().send("POST", "/api/v1/auth/login", &[json], "{").await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "invalid"));
}

#[tokio::test]
async fn guessing_is_slowed_down_with_clear_words() {
    let console = Console::start("console-lockout", &[("KAFSCALE_CONSOLE_TRUSTED_PROXIES", "127.0.0.1")]).await;
    let from = |address: &str| console.browser().with("X-Forwarded-For", address);
    for n in 0..5 {
        let answer = from("192.0.2.1").login(ADMIN.0, "wrong").await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "unauthenticated"), "{n}");
        assert!(!answer.json()["detail"].as_str().unwrap().contains(ADMIN.0));
    }
    let answer = from("192.0.2.1").login(ADMIN.0, ADMIN.1).await;
    assert_eq!((answer.status, answer.code().as_str()), (429, "locked_out"));
    let wait_sec: u64 = answer.header("retry-after").parse().unwrap();
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!((1..=30).contains(&wait_sec) && detail.contains(&format!("try again in {wait_sec} s")), "{detail}");
    // Another address is another one, and what a client says of itself counts for nothing.
    assert_eq!(from("203.0.113.7, 192.0.2.1").login(ADMIN.0, ADMIN.1).await.status, 429);
    assert_eq!(from("192.0.2.1, 203.0.113.7").login(ADMIN.0, ADMIN.1).await.status, 200);
    let metrics = String::from_utf8(console.browser().get("/metrics").await.body).unwrap();
    for line in ["kafscale_console_login_failures_total 5", "kafscale_console_logins_locked_out_total 2"] {
        assert!(metrics.lines().any(|l| l == line), "{line} is missing in\n{metrics}");
    }
}

#[tokio::test]
async fn without_a_login_nobody_gets_in_and_it_says_why() {
    let mut console = Console::start_with("console-unset", &[]).await;
    let mut browser = console.browser();
    let config = browser.get("/api/v1/auth/config").await.json();
    assert_eq!(config["configured"], false);
    assert!(config["message"].as_str().unwrap().contains("KAFSCALE_UI_USERNAME"), "{config}");
    for path in ["/api/v1/overview", "/ui/api/status", "/api/v1/auth/session"] {
        let answer = browser.get(path).await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "not_configured"), "{path}");
    }
    let answer = browser.login("", "").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "not_configured"));
    console.process.signal(libc::SIGTERM);
    assert!(console.process.wait_exit(crate::harness::READY_DEADLINE).await.success());
}

#[tokio::test]
async fn a_hash_signs_in_as_its_password_does() {
    // Of the reference implementation: `echo -n "correct horse battery" | argon2 somesaltsomesalt -id -t 2 -k 1024 -p 1 -e`.
    let params = argon2::Params::new(1_024, 2, 1, Some(32)).unwrap();
    let (salt, mut out) = (b"somesaltsomesalt", [0; 32]);
    let hasher = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    hasher.hash_password_into(ADMIN.1.as_bytes(), salt, &mut out).unwrap();
    let encode = |bytes: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::STANDARD_NO_PAD, bytes);
    let hash = format!("$argon2id$v=19$m=1024,t=2,p=1${}${}", encode(salt), encode(&out));
    let envs = [("KAFSCALE_UI_USERNAME", ADMIN.0), ("KAFSCALE_UI_PASSWORD_HASH", hash.as_str())];
    let console = Console::start_with("console-hash", &envs).await;
    let mut browser = console.browser();
    assert_eq!(browser.login(ADMIN.0, "wrong").await.status, 401);
    assert_eq!(browser.login(ADMIN.0, ADMIN.1).await.status, 200);
    let settings = browser.api("/settings").await.to_string();
    assert!(settings.contains("(redacted)") && !settings.contains("argon2id$v"), "{settings}");
}

#[tokio::test]
async fn every_answer_tells_browsers_what_not_to_do() {
    let console = Console::start("console-headers", &[]).await;
    let browser = console.browser();
    for path in ["/", "/api/v1/auth/config", "/api/v1/overview", "/assets/none/x.js", "/livez"] {
        let answer = browser.send("GET", path, &[("X-Request-Id", "abc-1")], "").await;
        let csp = answer.header("content-security-policy");
        assert!(csp.contains("default-src 'self'") && csp.contains("frame-ancestors 'none'"), "{path}: {csp}");
        assert!(!csp.contains("unsafe"), "{csp}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
            ("x-request-id", "abc-1"),
        ] {
            assert_eq!(answer.header(name), value, "{path} {name}");
        }
        assert!(answer.header("permissions-policy").contains("camera=()"), "{path}");
        assert!(answer.headers.contains_key("cache-control"), "{path}");
        assert_eq!(answer.header("strict-transport-security"), "", "plain HTTP");
    }
    let odd = browser.send("GET", "/livez", &[("X-Request-Id", "<script>")], "").await;
    assert_ne!(odd.header("x-request-id"), "<script>");
    assert_eq!(browser.send("POST", "/topics", &[], "").await.status, 404);
    assert_eq!(browser.send("TRACE", "/", &[], "").await.status, 404);
}

#[tokio::test]
async fn configuration_is_checked_before_anything_is_started() {
    let (code, _, err) = run(&["console"], &[("KAFSCALE_UI_USERNAME", "a"), ("KAFSCALE_UI_PASWORD", "b")]);
    assert_eq!(code, 78);
    assert!(err.contains("KAFSCALE_UI_PASWORD is not a known variable: did you mean KAFSCALE_UI_PASSWORD?"), "{err}");
    assert!(err.contains("KAFSCALE_UI_USERNAME is set without KAFSCALE_UI_PASSWORD"), "{err}");
    let (code, out, err) = run(
        &["check-config", "--component", "console"],
        &[
            ("KAFSCALE_UI_USERNAME", "a"),
            ("KAFSCALE_UI_PASSWORD", "hush"),
            ("KAFSCALE_CONSOLE_ETCD_ENDPOINTS", "etcd:2379"),
        ],
    );
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("KAFSCALE_UI_PASSWORD") && !out.contains("hush"), "{out}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, _, err) = run(&["console"], &[("KAFSCALE_CONSOLE_HTTP_ADDR", &address)]);
    assert!(code == 73 && err.contains("KAFSCALE_CONSOLE_HTTP_ADDR") && err.contains(&address), "{code} {err}");
    let dir = crate::harness::TestDir::new("console-taken");
    let data = dir.path().display().to_string();
    let envs = [
        ("KAFSCALE_BROKER_ADDR", "127.0.0.1:0"),
        ("KAFSCALE_METRICS_ADDR", "127.0.0.1:0"),
        ("KAFSCALE_CONSOLE_HTTP_ADDR", address.as_str()),
        ("KAFSCALE_DATA_DIR", data.as_str()),
    ];
    let (code, _, err) = run(&["dev"], &envs);
    assert!(code == 73 && err.contains("KAFSCALE_CONSOLE_HTTP_ADDR"), "{code} {err}");
    let (code, _, err) = run(&["broker"], &[("KAFSCALE_UI_USERNAME", "a")]);
    assert!(code == 78 && err.contains("belongs to `kafscale console`"), "{code} {err}");
}

#[tokio::test]
async fn it_starts_with_what_the_chart_tells_it() {
    let values = "console: {auth: {username: ann, password: b}, etcdEndpoints: ['http://127.0.0.1:1'], trustedProxies: [10.0.0.0/8]}";
    let manifests = crate::chart::helm::Render::new().values(values).manifests();
    let mut env = crate::chart::config::environment_of("Deployment/kafscale-console", &manifests);
    assert_eq!(env.remove("KAFSCALE_CONSOLE_HTTP_ADDR").as_deref(), Some("0.0.0.0:8080"));
    let env: Vec<(&str, &str)> = env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let console = Console::start_with("console-chart", &env).await;
    let mut browser = console.browser();
    // What a secret holds is not in the manifests of a pod.
    assert_eq!(browser.login("filled-in", "filled-in").await.status, 200);
    let overview = browser.api("/overview").await;
    let missing = &overview["partial"][0];
    assert!(overview["health"]["level"] != "ok" && missing["source"] == "etcd", "{overview}");
    assert_eq!(overview["topics"], serde_json::Value::Null, "nothing is known, and nothing is invented");
}

#[tokio::test]
async fn dev_prints_a_password_for_the_time_being() {
    let dir = crate::harness::TestDir::new("console-dev-password");
    let log = dir.path().join("dev.log");
    let envs = [("KAFSCALE_DATA_DIR", dir.path().join("data").display().to_string())];
    let mut broker = crate::harness::Broker::spawn("dev", &envs, &log);
    broker.wait_ready().await;
    let line = logged(&log, "Console   http://").await;
    let words: Vec<&str> = line.split_whitespace().collect();
    let address = words[1].strip_prefix("http://").unwrap();
    let (user, password) = (words[5], words[7]);
    let mut browser = super::browser::Browser::new(address);
    assert_eq!(browser.login(user, "wrong").await.status, 401);
    assert_eq!(browser.login(user, password).await.status, 200, "{line}");
    let overview = browser.api("/overview").await;
    assert_eq!(overview["etcd"]["state"], "embedded");
    assert_eq!(overview["brokers"]["live"], 1);
    assert_ne!(VIEWER.1, password);
}
