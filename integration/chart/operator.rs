//! Effects of the values of the operator, and of those that are for everything.

use crate::chart::effects::{CONSOLE, OPERATOR, Row, row};

const ROLE: &str = "Role/kafscale-operator";
const METRICS: &str = "Service/kafscale-operator-metrics";
const MONITOR: &str = "ServiceMonitor/kafscale-operator";
const RULE: &str = "PrometheusRule/kafscale-operator";
const POLICY: &str = "NetworkPolicy/kafscale-operator";
const IMAGE: &str = "/spec/template/spec/containers/0/image";
const PULL: &str = "/spec/template/spec/containers/0/imagePullPolicy";
const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn env(value: &'static str, set: &'static str, name: &'static str, is: &'static str) -> Row {
    row(value, set, OPERATOR, name, is)
}

fn with(with: &'static str, row: Row) -> Row {
    Row { with, ..row }
}

/// What the operator is told by its environment.
pub fn settings() -> Vec<Row> {
    let broker_image = "env KAFSCALE_OPERATOR_BROKER_IMAGE";
    let broker_pull = "env KAFSCALE_OPERATOR_BROKER_IMAGE_PULL_POLICY";
    vec![
        row("operator.replicaCount", "3", OPERATOR, "/spec/replicas", "3"),
        env(
            "operator.etcdEndpoints",
            "['http://etcd-0:2379', 'http://etcd-1:2379']",
            "env KAFSCALE_OPERATOR_ETCD_ENDPOINTS",
            "http://etcd-0:2379,http://etcd-1:2379",
        ),
        row(
            "operator.etcdEndpoints",
            "['http://etcd:2379']",
            CONSOLE,
            "env KAFSCALE_CONSOLE_ETCD_ENDPOINTS",
            "http://etcd:2379",
        ),
        env("operator.leaderKey", "blue", "env KAFSCALE_OPERATOR_LEADER_KEY", "blue"),
        row("operator.leaderKey", "blue", "Role/kafscale-operator-leader", "/rules/1/resourceNames", "[blue]"),
        env("operator.logLevel", "debug", "env KAFSCALE_LOG_LEVEL", "debug"),
        env("operator.traceSlowRequestMs", "0", "env KAFSCALE_TRACE_SLOW_REQUEST_MS", "'0'"),
        env("operator.image.repository", "example.com/kafscale", IMAGE, "example.com/kafscale:v0.1.0"),
        env("operator.image.tag", "v1.1.0", IMAGE, "ghcr.io/kafscale/kafscale:v1.1.0"),
        env("operator.image.digest", DIGEST, IMAGE, concat_digest()),
        env("operator.image.pullPolicy", "Never", PULL, "Never"),
        env("operator.image.useLatest", "true", IMAGE, "ghcr.io/kafscale/kafscale:latest"),
        env("operator.image.useLatest", "true", PULL, "Always"),
        env("operator.brokerImage.repository", "example.com/kafscale", broker_image, "example.com/kafscale:v0.1.0"),
        env("operator.brokerImage.tag", "v1.1.0", broker_image, "ghcr.io/kafscale/kafscale:v1.1.0"),
        env("operator.brokerImage.digest", DIGEST, broker_image, concat_digest()),
        env("operator.brokerImage.pullPolicy", "Never", broker_pull, "Never"),
        env("operator.brokerImage.useLatest", "true", broker_image, "ghcr.io/kafscale/kafscale:latest"),
        env("operator.brokerImage.useLatest", "true", broker_pull, "Always"),
        env(
            "operator.etcd.image",
            "example.com/etcd:v3.5.21",
            "env KAFSCALE_OPERATOR_ETCD_IMAGE",
            "example.com/etcd:v3.5.21",
        ),
        env("operator.etcd.storageSize", "50Gi", "env KAFSCALE_OPERATOR_ETCD_STORAGE_SIZE", "50Gi"),
        env("operator.etcd.storageClass", "fast-ssd", "env KAFSCALE_OPERATOR_ETCD_STORAGE_CLASS", "fast-ssd"),
        env("operator.etcdSnapshot.bucket", "backups", "env KAFSCALE_OPERATOR_ETCD_SNAPSHOT_BUCKET", "backups"),
        env("operator.etcdSnapshot.prefix", "etcd", "env KAFSCALE_OPERATOR_ETCD_SNAPSHOT_PREFIX", "etcd"),
        env(
            "operator.etcdSnapshot.schedule",
            "'*/15 * * * *'",
            "env KAFSCALE_OPERATOR_ETCD_SNAPSHOT_SCHEDULE",
            "'*/15 * * * *'",
        ),
        env(
            "operator.etcdSnapshot.etcdctlImage",
            "example.com/etcd:v3.5.21",
            "env KAFSCALE_OPERATOR_ETCD_SNAPSHOT_ETCDCTL_IMAGE",
            "example.com/etcd:v3.5.21",
        ),
        env(
            "operator.etcdSnapshot.image",
            "example.com/aws-cli:2",
            "env KAFSCALE_OPERATOR_ETCD_SNAPSHOT_IMAGE",
            "example.com/aws-cli:2",
        ),
        env(
            "operator.etcdSnapshot.s3Endpoint",
            "http://minio:9000",
            "env KAFSCALE_OPERATOR_ETCD_SNAPSHOT_S3_ENDPOINT",
            "http://minio:9000",
        ),
        env(
            "operator.etcdSnapshot.staleAfterSec",
            "10800000",
            "env KAFSCALE_OPERATOR_ETCD_SNAPSHOT_STALE_AFTER_SEC",
            "'10800000'",
        ),
        env("operator.etcdSnapshot.createBucket", "true", "env KAFSCALE_OPERATOR_ETCD_SNAPSHOT_CREATE_BUCKET", "'1'"),
        env("operator.etcdSnapshot.protectBucket", "true", "env KAFSCALE_OPERATOR_ETCD_SNAPSHOT_PROTECT_BUCKET", "'1'"),
        env("operator.etcdSnapshot.skipPreflight", "true", "env KAFSCALE_OPERATOR_ETCD_SNAPSHOT_SKIP_PREFLIGHT", "'1'"),
        env("operator.s3Namespace", "prod", "env KAFSCALE_S3_NAMESPACE", "prod"),
        env("operator.segmentBytes", "8388608", "env KAFSCALE_SEGMENT_BYTES", "'8388608'"),
        env("operator.flushIntervalMs", "250", "env KAFSCALE_FLUSH_INTERVAL_MS", "'250'"),
        env("operator.metrics.bindAddress", "'[::]'", "env KAFSCALE_OPERATOR_METRICS_ADDR", "'[::]:8080'"),
        env("operator.metrics.port", "9999", "env KAFSCALE_OPERATOR_METRICS_ADDR", "0.0.0.0:9999"),
        env("operator.metrics.port", "9999", "/spec/template/spec/containers/0/ports/0/containerPort", "9999"),
        env("operator.extraEnv", "[{name: OTEL_SERVICE_NAME, value: op}]", "env OTEL_SERVICE_NAME", "op"),
    ]
}

fn concat_digest() -> &'static str {
    "ghcr.io/kafscale/kafscale@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
}

/// How its pods run.
pub fn pods() -> Vec<Row> {
    let container = |value, set, place, is| row(value, set, OPERATOR, place, is);
    let spread = "[{maxSkew: 2, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule}]";
    let affinity = "{nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: []}}";
    vec![
        container(
            "operator.extraEnvFrom",
            "[{secretRef: {name: more}}]",
            "/spec/template/spec/containers/0/envFrom/0/secretRef/name",
            "more",
        ),
        container("operator.extraVolumes", "[{name: ca, emptyDir: {}}]", "/spec/template/spec/volumes/1/name", "ca"),
        container(
            "operator.extraVolumeMounts",
            "[{name: ca, mountPath: /ca}]",
            "/spec/template/spec/containers/0/volumeMounts/1/mountPath",
            "/ca",
        ),
        container(
            "operator.resources",
            "{limits: {memory: 1Gi}}",
            "/spec/template/spec/containers/0/resources/limits/memory",
            "1Gi",
        ),
        container("operator.tmpSizeLimit", "1Gi", "/spec/template/spec/volumes/0/emptyDir/sizeLimit", "1Gi"),
        container("operator.podLabels", "{tier: control}", "/spec/template/metadata/labels/tier", "control"),
        container("operator.podAnnotations", "{a/b: c}", "/spec/template/metadata/annotations/a~1b", "c"),
        container("operator.annotations", "{a/b: c}", "/metadata/annotations/a~1b", "c"),
        container(
            "operator.podSecurityContext",
            "{runAsUser: 1000}",
            "/spec/template/spec/securityContext/runAsUser",
            "1000",
        ),
        container(
            "operator.securityContext",
            "{runAsGroup: 1000}",
            "/spec/template/spec/containers/0/securityContext/runAsGroup",
            "1000",
        ),
        container("operator.nodeSelector", "{disk: ssd}", "/spec/template/spec/nodeSelector/disk", "ssd"),
        container(
            "operator.tolerations",
            "[{key: infra, operator: Exists}]",
            "/spec/template/spec/tolerations/0/key",
            "infra",
        ),
        container("operator.affinity", affinity, "/spec/template/spec/affinity", affinity),
        container(
            "operator.topologySpreadConstraints",
            spread,
            "/spec/template/spec/topologySpreadConstraints",
            spread,
        ),
        container("operator.priorityClassName", "important", "/spec/template/spec/priorityClassName", "important"),
        container(
            "operator.terminationGracePeriodSeconds",
            "60",
            "/spec/template/spec/terminationGracePeriodSeconds",
            "60",
        ),
        row("operator.podDisruptionBudget.enabled", "false", "PodDisruptionBudget/kafscale-operator", "/kind", "null"),
        row(
            "operator.podDisruptionBudget.maxUnavailable",
            "50%",
            "PodDisruptionBudget/kafscale-operator",
            "/spec/maxUnavailable",
            "50%",
        ),
        row("operator.secretNames", "[s3-creds]", ROLE, "/rules/13/resourceNames", "[s3-creds]"),
    ]
}

/// Objects besides its Deployment, and the values that are for all of them.
pub fn around() -> Vec<Row> {
    let policy = "networkPolicy: {enabled: true}";
    let monitor = "operator: {metrics: {serviceMonitor: {enabled: true}}}";
    let rule = "operator: {metrics: {prometheusRule: {enabled: true}}}";
    let from = "[{namespaceSelector: {matchLabels: {name: monitoring}}}]";
    let peer = "{namespaceSelector: {matchLabels: {name: monitoring}}}";
    let egress = "[{to: [{ipBlock: {cidr: 10.0.0.0/8}}]}]";
    let first_runbook = "/spec/groups/0/rules/0/annotations/runbook_url";
    vec![
        row("nameOverride", "streams", "Deployment/kafscale-streams-operator", "/kind", "Deployment"),
        row("fullnameOverride", "ks", "Deployment/ks-operator", "/kind", "Deployment"),
        row("commonLabels", "{team: a}", ROLE, "/metadata/labels/team", "a"),
        row("commonLabels", "{team: a}", CONSOLE, "/spec/template/metadata/labels/team", "a"),
        row(
            "imagePullSecrets",
            "[ghcr, {name: other}]",
            OPERATOR,
            "/spec/template/spec/imagePullSecrets",
            "[{name: ghcr}, {name: other}]",
        ),
        env(
            "imagePullSecrets",
            "[ghcr, {name: other}]",
            "env KAFSCALE_OPERATOR_BROKER_IMAGE_PULL_SECRETS",
            "ghcr,other",
        ),
        row("imagePullSecrets", "[ghcr]", CONSOLE, "/spec/template/spec/imagePullSecrets", "[{name: ghcr}]"),
        row(
            "global.imageRegistry",
            "example.com/mirror",
            OPERATOR,
            IMAGE,
            "example.com/mirror/kafscale/kafscale:v0.1.0",
        ),
        row("global.imageRegistry", "example.com", CONSOLE, IMAGE, "example.com/kafscale/kafscale:v0.1.0"),
        row(
            "global.imageRegistry",
            "example.com",
            OPERATOR,
            "env KAFSCALE_OPERATOR_BROKER_IMAGE",
            "example.com/kafscale/kafscale:v0.1.0",
        ),
        row(
            "global.imageRegistry",
            "example.com",
            "Pod/kafscale-test-operator",
            "/spec/containers/0/image",
            "example.com/busybox:1.36",
        ),
        row("crds.install", "false", "CustomResourceDefinition/kafscaleclusters.kafscale.io", "/kind", "null"),
        row("crds.install", "false", "CustomResourceDefinition/kafscaletopics.kafscale.io", "/kind", "null"),
        row("watchNamespaces", "[blue, green]", "Role/blue/kafscale-operator", "/kind", "Role"),
        row(
            "watchNamespaces",
            "[blue, green]",
            "RoleBinding/green/kafscale-operator",
            "/subjects/0/namespace",
            "kafscale",
        ),
        row("watchNamespaces", "[blue, green]", ROLE, "/kind", "null"),
        row("watchNamespaces", "[blue, green]", OPERATOR, "env KAFSCALE_OPERATOR_WATCH_NAMESPACES", "blue,green"),
        row("serviceAccount.create", "false", "ServiceAccount/kafscale-operator", "/kind", "null"),
        row("serviceAccount.create", "false", OPERATOR, "/spec/template/spec/serviceAccountName", "default"),
        row("serviceAccount.name", "me", OPERATOR, "/spec/template/spec/serviceAccountName", "me"),
        row("serviceAccount.name", "me", "RoleBinding/kafscale-operator", "/subjects/0/name", "me"),
        row(
            "serviceAccount.annotations",
            "{a/b: c}",
            "ServiceAccount/kafscale-operator",
            "/metadata/annotations/a~1b",
            "c",
        ),
        row("rbac.create", "false", ROLE, "/kind", "null"),
        row("rbac.create", "false", "RoleBinding/kafscale-operator-leader", "/kind", "null"),
        row("rbac.scope", "cluster", "ClusterRole/kafscale-kafscale-operator", "/kind", "ClusterRole"),
        row("rbac.scope", "cluster", ROLE, "/kind", "null"),
        row("rbac.scope", "cluster", OPERATOR, "env KAFSCALE_OPERATOR_WATCH_NAMESPACES", "'*'"),
        with("watchNamespaces: [blue]", row("rbac.scope", "cluster", "Role/blue/kafscale-operator", "/kind", "null")),
        row(
            "rbac.aggregateClusterRoles",
            "true",
            "ClusterRole/kafscale-kafscale-edit",
            "/metadata/labels/rbac.authorization.k8s.io~1aggregate-to-edit",
            "'true'",
        ),
        row("networkPolicy.enabled", "true", POLICY, "/spec/policyTypes", "[Ingress, Egress]"),
        row(
            "networkPolicy.enabled",
            "true",
            "NetworkPolicy/kafscale-console",
            "/spec/policyTypes",
            "[Ingress, Egress]",
        ),
        with(policy, row("networkPolicy.metricsFrom", from, POLICY, "/spec/ingress/0/from/0", peer)),
        with(
            policy,
            row("networkPolicy.consoleFrom", from, "NetworkPolicy/kafscale-console", "/spec/ingress/0/from/0", peer),
        ),
        with(policy, row("networkPolicy.apiServerPorts", "[16443]", POLICY, "/spec/egress/1/ports/0/port", "16443")),
        with(policy, row("networkPolicy.etcdPorts", "[12379]", POLICY, "/spec/egress/1/ports/2/port", "12379")),
        with(policy, row("networkPolicy.s3Ports", "[9000]", POLICY, "/spec/egress/1/ports/3/port", "9000")),
        with(
            policy,
            row("networkPolicy.brokerPorts", "[1, 2]", POLICY, "/spec/egress/2/ports", "[{port: 1}, {port: 2}]"),
        ),
        with(
            policy,
            row("networkPolicy.extraEgress", egress, POLICY, "/spec/egress/3/to/0/ipBlock/cidr", "10.0.0.0/8"),
        ),
        row("operator.metrics.enabled", "false", METRICS, "/kind", "null"),
        with(monitor, row("operator.metrics.enabled", "false", MONITOR, "/kind", "null")),
        with(rule, row("operator.metrics.enabled", "false", RULE, "/kind", "null")),
        row("operator.metrics.service.type", "NodePort", METRICS, "/spec/type", "NodePort"),
        row("operator.metrics.service.port", "80", METRICS, "/spec/ports/0/port", "80"),
        row("operator.metrics.service.annotations", "{a/b: c}", METRICS, "/metadata/annotations/a~1b", "c"),
        row("operator.metrics.serviceMonitor.enabled", "true", MONITOR, "/spec/endpoints/0/honorLabels", "true"),
        with(
            monitor,
            row("operator.metrics.serviceMonitor.interval", "15s", MONITOR, "/spec/endpoints/0/interval", "15s"),
        ),
        with(
            monitor,
            row(
                "operator.metrics.serviceMonitor.scrapeTimeout",
                "5s",
                MONITOR,
                "/spec/endpoints/0/scrapeTimeout",
                "5s",
            ),
        ),
        with(
            monitor,
            row("operator.metrics.serviceMonitor.labels", "{release: p}", MONITOR, "/metadata/labels/release", "p"),
        ),
        with(
            monitor,
            row(
                "operator.metrics.serviceMonitor.metricRelabelings",
                "[{action: labeldrop, regex: pod}]",
                MONITOR,
                "/spec/endpoints/0/metricRelabelings/0/regex",
                "pod",
            ),
        ),
        row(
            "operator.metrics.prometheusRule.enabled",
            "true",
            RULE,
            "/spec/groups/0/rules/0/alert",
            "KafscaleSnapshotAccessFailed",
        ),
        with(
            rule,
            row("operator.metrics.prometheusRule.labels", "{release: p}", RULE, "/metadata/labels/release", "p"),
        ),
        with(
            rule,
            row(
                "operator.metrics.prometheusRule.runbookUrl",
                "https://wiki.example.com/",
                RULE,
                first_runbook,
                "https://wiki.example.com/KafscaleSnapshotAccessFailed.md",
            ),
        ),
        row(
            "tests.image.repository",
            "example.com/box",
            "Pod/kafscale-test-operator",
            "/spec/containers/0/image",
            "example.com/box:1.36",
        ),
        row("tests.image.tag", "'1.37'", "Pod/kafscale-test-console", "/spec/containers/0/image", "busybox:1.37"),
        row("tests.image.digest", DIGEST, "Pod/kafscale-test-operator", "/spec/containers/0/image", busybox()),
        row(
            "tests.image.pullPolicy",
            "Never",
            "Pod/kafscale-test-operator",
            "/spec/containers/0/imagePullPolicy",
            "Never",
        ),
    ]
}

fn busybox() -> &'static str {
    "busybox@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
}
