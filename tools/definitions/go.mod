// Definitions of custom resources that the chart can make, but that are other projects'. Nothing is built of these modules.
module kafscale.io/tools/definitions

go 1.26.0

require (
	github.com/prometheus-operator/prometheus-operator v0.82.2
	sigs.k8s.io/gateway-api v1.2.1
)
