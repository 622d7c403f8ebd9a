{{- define "farplane.labels" -}}
app.kubernetes.io/part-of: farplane
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "farplane.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "farplane.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "farplane.probes" -}}
readinessProbe:
  httpGet: { path: /readyz, port: metrics }
  periodSeconds: 2
  failureThreshold: 3
livenessProbe:
  httpGet: { path: /healthz, port: metrics }
  periodSeconds: 10
  failureThreshold: 6
{{- end }}

{{- /* There may be no DNS at the hub, so Pods find Services by the addresses the kubelet gives. */ -}}
{{- define "farplane.commonEnv" -}}
- name: FARPLANE_HUB_DOMAIN
  value: {{ required "hubDomain is required" .Values.hubDomain | quote }}
- name: FARPLANE_ARTIFACTS_URL
  value: "http://$(FARPLANE_ARTIFACTS_SERVICE_HOST):8080"
- name: FARPLANE_REGISTRY_URL
  value: "http://$(FARPLANE_ARTIFACTS_SERVICE_HOST):8081"
- name: FARPLANE_POD_NAME
  valueFrom: { fieldRef: { fieldPath: metadata.name } }
- name: FARPLANE_POD_IP
  valueFrom: { fieldRef: { fieldPath: status.podIP } }
- name: FARPLANE_NAMESPACE
  valueFrom: { fieldRef: { fieldPath: metadata.namespace } }
{{- end }}

{{- define "farplane.imagePullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "farplane.checkValues" -}}
{{- if not .Values.publicAddress }}{{ fail "publicAddress (host:port of the gateway) is required" }}{{ end }}
{{- if ne .Release.Namespace "farplane-system" }}{{ fail "install into the namespace farplane-system" }}{{ end }}
{{- if and .Values.store.hostPath .Values.store.storageClass }}{{ fail "set store.hostPath or store.storageClass, not both" }}{{ end }}
{{- if not (or .Values.store.hostPath .Values.store.storageClass) }}{{ fail "set store.hostPath or store.storageClass" }}{{ end }}
{{- if and .Values.registry.hostPath .Values.registry.claim }}{{ fail "set registry.hostPath or registry.claim, not both" }}{{ end }}
{{- range $name := list "hub" "artifacts" "kubernetesServer" "etcd" "pause" }}
{{- if not (index $.Values.images $name) }}{{ fail (printf "images.%s is required" $name) }}{{ end }}
{{- end }}
{{- if and .Values.labs.enabled (not .Values.images.labHost) }}{{ fail "images.labHost is required for labs" }}{{ end }}
{{- end }}
