//! Effects of the values of the console.

use crate::chart::effects::{CONSOLE, Row, row};

const SERVICE: &str = "Service/kafscale-console";
const SECRET: &str = "Secret/kafscale-console-auth";
const INGRESS: &str = "Ingress/kafscale-console";
const ROUTE: &str = "HTTPRoute/kafscale-console";
const IMAGE: &str = "/spec/template/spec/containers/0/image";
const PULL: &str = "/spec/template/spec/containers/0/imagePullPolicy";

fn at(value: &'static str, set: &'static str, place: &'static str, is: &'static str) -> Row {
    row(value, set, CONSOLE, place, is)
}

fn with(with: &'static str, row: Row) -> Row {
    Row { with, ..row }
}

/// What the console is told, and how it is reached.
pub fn settings() -> Vec<Row> {
    let own = "console: {auth: {existingSecret: login}}";
    let etcd = "console: {etcdAuth: {existingSecret: etcd-login}}";
    let login = "console: {auth: {username: somebody, password: something}}";
    let balancer = "console: {service: {type: LoadBalancer}}";
    let ingress = "console: {ingress: {enabled: true}}";
    let route = "console: {httpRoute: {enabled: true, parentRefs: [{name: gateway}]}}";
    vec![
        row("console.enabled", "false", CONSOLE, "/kind", "null"),
        row("console.enabled", "false", SERVICE, "/kind", "null"),
        at("console.replicaCount", "2", "/spec/replicas", "2"),
        at("console.logLevel", "warn", "env KAFSCALE_LOG_LEVEL", "warn"),
        at("console.image.repository", "example.com/kafscale", IMAGE, "example.com/kafscale:v0.1.0"),
        at("console.image.tag", "v1.1.0", IMAGE, "ghcr.io/kafscale/kafscale:v1.1.0"),
        at(
            "console.image.digest",
            "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            IMAGE,
            "ghcr.io/kafscale/kafscale@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        ),
        at("console.image.pullPolicy", "Never", PULL, "Never"),
        at("console.image.useLatest", "true", IMAGE, "ghcr.io/kafscale/kafscale:latest"),
        at("console.image.useLatest", "true", PULL, "Always"),
        with(login, row("console.auth.username", "u", SECRET, "/data/KAFSCALE_UI_USERNAME", "dQ==")),
        with(login, row("console.auth.password", "p", SECRET, "/data/KAFSCALE_UI_PASSWORD", "cA==")),
        at(
            "console.auth.existingSecret",
            "login",
            "env KAFSCALE_UI_PASSWORD",
            "{name: login, key: KAFSCALE_UI_PASSWORD}",
        ),
        with(own, at("console.auth.usernameKey", "user", "env KAFSCALE_UI_USERNAME", "{name: login, key: user}")),
        with(own, at("console.auth.passwordKey", "pass", "env KAFSCALE_UI_PASSWORD", "{name: login, key: pass}")),
        with(
            "operator: {etcdEndpoints: ['http://other:2379']}",
            at(
                "console.etcdEndpoints",
                "['http://a:1', 'http://b:2']",
                "env KAFSCALE_CONSOLE_ETCD_ENDPOINTS",
                "http://a:1,http://b:2",
            ),
        ),
        at(
            "console.etcdAuth.existingSecret",
            "e",
            "env KAFSCALE_CONSOLE_ETCD_PASSWORD",
            "{name: e, key: KAFSCALE_CONSOLE_ETCD_PASSWORD}",
        ),
        with(
            etcd,
            at("console.etcdAuth.usernameKey", "u", "env KAFSCALE_CONSOLE_ETCD_USERNAME", "{name: etcd-login, key: u}"),
        ),
        with(
            etcd,
            at("console.etcdAuth.passwordKey", "p", "env KAFSCALE_CONSOLE_ETCD_PASSWORD", "{name: etcd-login, key: p}"),
        ),
        at("console.clusterName", "prod", "env KAFSCALE_S3_NAMESPACE", "prod"),
        at("operator.s3Namespace", "team", "env KAFSCALE_S3_NAMESPACE", "team"),
        at(
            "console.trustedProxies",
            "[10.0.0.0/8, 'fd00::/8']",
            "env KAFSCALE_CONSOLE_TRUSTED_PROXIES",
            "10.0.0.0/8,fd00::/8",
        ),
        at("console.cookieSecure", "false", "env KAFSCALE_CONSOLE_COOKIE_SECURE", "'false'"),
        row("console.replicaCount", "2", SERVICE, "/spec/sessionAffinity", "ClientIP"),
        at(
            "console.brokerMetricsUrl",
            "http://demo:9093/metrics",
            "env KAFSCALE_CONSOLE_BROKER_METRICS_URL",
            "http://demo:9093/metrics",
        ),
        at(
            "console.operatorMetricsUrl",
            "http://operator:8080/metrics",
            "env KAFSCALE_CONSOLE_OPERATOR_METRICS_URL",
            "http://operator:8080/metrics",
        ),
        at("console.bindAddress", "'[::]'", "env KAFSCALE_CONSOLE_HTTP_ADDR", "'[::]:8080'"),
        at("console.port", "9000", "env KAFSCALE_CONSOLE_HTTP_ADDR", "0.0.0.0:9000"),
        at("console.port", "9000", "/spec/template/spec/containers/0/ports/0/containerPort", "9000"),
        row("console.service.type", "LoadBalancer", SERVICE, "/spec/type", "LoadBalancer"),
        row("console.service.port", "8443", SERVICE, "/spec/ports/0/port", "8443"),
        with(balancer, row("console.service.nodePort", "30080", SERVICE, "/spec/ports/0/nodePort", "30080")),
        with(
            balancer,
            row("console.service.loadBalancerIP", "192.0.2.1", SERVICE, "/spec/loadBalancerIP", "192.0.2.1"),
        ),
        with(balancer, row("console.service.loadBalancerClass", "nlb", SERVICE, "/spec/loadBalancerClass", "nlb")),
        with(
            balancer,
            row(
                "console.service.loadBalancerSourceRanges",
                "[10.0.0.0/8]",
                SERVICE,
                "/spec/loadBalancerSourceRanges",
                "[10.0.0.0/8]",
            ),
        ),
        with(
            balancer,
            row("console.service.externalTrafficPolicy", "Local", SERVICE, "/spec/externalTrafficPolicy", "Local"),
        ),
        row("console.service.annotations", "{a/b: c}", SERVICE, "/metadata/annotations/a~1b", "c"),
        row("console.ingress.enabled", "true", INGRESS, "/spec/rules/0/host", "kafscale.local"),
        with(ingress, row("console.ingress.className", "traefik", INGRESS, "/spec/ingressClassName", "traefik")),
        with(ingress, row("console.ingress.annotations", "{a/b: c}", INGRESS, "/metadata/annotations/a~1b", "c")),
        with(
            ingress,
            row(
                "console.ingress.hosts",
                "[{host: ui.example.com, paths: [{path: /ui, pathType: Exact}]}]",
                INGRESS,
                "/spec/rules/0",
                "{host: ui.example.com, http: {paths: [{path: /ui, pathType: Exact, backend: {service: {name: kafscale-console, port: {name: http}}}}]}}",
            ),
        ),
        with(
            ingress,
            row(
                "console.ingress.tls",
                "[{hosts: [a.b], secretName: cert}]",
                INGRESS,
                "/spec/tls/0",
                "{hosts: [a.b], secretName: cert}",
            ),
        ),
        with(
            "console: {httpRoute: {parentRefs: [{name: gateway}]}}",
            row(
                "console.httpRoute.enabled",
                "true",
                ROUTE,
                "/spec/rules/0/backendRefs/0",
                "{name: kafscale-console, port: 80}",
            ),
        ),
        with(
            route,
            row("console.httpRoute.parentRefs", "[{name: other}]", ROUTE, "/spec/parentRefs", "[{name: other}]"),
        ),
        with(
            route,
            row("console.httpRoute.hostnames", "[ui.example.com]", ROUTE, "/spec/hostnames", "[ui.example.com]"),
        ),
        with(route, row("console.httpRoute.annotations", "{a/b: c}", ROUTE, "/metadata/annotations/a~1b", "c")),
    ]
}

/// How its pods run.
pub fn pods() -> Vec<Row> {
    let spread = "[{maxSkew: 2, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule}]";
    let affinity = "{podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: []}}";
    vec![
        row("console.serviceAccount.create", "false", "ServiceAccount/kafscale-console", "/kind", "null"),
        at("console.serviceAccount.name", "ui", "/spec/template/spec/serviceAccountName", "ui"),
        row(
            "console.serviceAccount.annotations",
            "{a/b: c}",
            "ServiceAccount/kafscale-console",
            "/metadata/annotations/a~1b",
            "c",
        ),
        at("console.extraEnv", "[{name: TZ, value: UTC}]", "env TZ", "UTC"),
        at(
            "console.extraEnvFrom",
            "[{configMapRef: {name: more}}]",
            "/spec/template/spec/containers/0/envFrom/0/configMapRef/name",
            "more",
        ),
        at("console.extraVolumes", "[{name: ca, emptyDir: {}}]", "/spec/template/spec/volumes/1/name", "ca"),
        at(
            "console.extraVolumeMounts",
            "[{name: ca, mountPath: /ca}]",
            "/spec/template/spec/containers/0/volumeMounts/1/mountPath",
            "/ca",
        ),
        at(
            "console.resources",
            "{limits: {memory: 1Gi}}",
            "/spec/template/spec/containers/0/resources/limits/memory",
            "1Gi",
        ),
        at("console.tmpSizeLimit", "1Gi", "/spec/template/spec/volumes/0/emptyDir/sizeLimit", "1Gi"),
        at("console.podLabels", "{tier: web}", "/spec/template/metadata/labels/tier", "web"),
        at("console.podAnnotations", "{a/b: c}", "/spec/template/metadata/annotations/a~1b", "c"),
        at("console.annotations", "{a/b: c}", "/metadata/annotations/a~1b", "c"),
        at("console.podSecurityContext", "{runAsUser: 1000}", "/spec/template/spec/securityContext/runAsUser", "1000"),
        at(
            "console.securityContext",
            "{runAsGroup: 1000}",
            "/spec/template/spec/containers/0/securityContext/runAsGroup",
            "1000",
        ),
        at("console.nodeSelector", "{disk: ssd}", "/spec/template/spec/nodeSelector/disk", "ssd"),
        at("console.tolerations", "[{key: infra, operator: Exists}]", "/spec/template/spec/tolerations/0/key", "infra"),
        at("console.affinity", affinity, "/spec/template/spec/affinity", affinity),
        at("console.topologySpreadConstraints", spread, "/spec/template/spec/topologySpreadConstraints", spread),
        at("console.priorityClassName", "important", "/spec/template/spec/priorityClassName", "important"),
    ]
}
