{{/* A pod that is done when URLs answer: (dict "root" $ "component" "operator" "urls" (list …)) */}}
{{- define "kafscale.test" -}}
apiVersion: v1
kind: Pod
metadata:
  name: {{ include "kafscale.fullname" .root }}-test-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "kafscale.labels" (dict "root" .root "component" "test") | nindent 4 }}
  annotations:
    helm.sh/hook: test
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with include "kafscale.pullSecretNames" .root | fromJsonArray }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65534
    seccompProfile:
      type: RuntimeDefault
  containers:
    - name: test
      image: {{ include "kafscale.image" (dict "root" .root "image" .root.Values.tests.image) }}
      imagePullPolicy: {{ .root.Values.tests.image.pullPolicy }}
      command: [sh, -ec]
      args:
        - |
          {{- range .urls }}
          wget -q -T 10 -O /dev/null {{ . }}
          {{- end }}
      resources:
        requests:
          cpu: 10m
          memory: 16Mi
        limits:
          memory: 32Mi
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
{{- end }}
