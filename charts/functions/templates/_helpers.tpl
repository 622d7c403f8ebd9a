{{- define "functions.labels" -}}
app.kubernetes.io/part-of: farplane-functions
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "functions.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- /* The kubelet makes directories as root's; without capabilities root is only their owner. */ -}}
{{- define "functions.directorySecurity" -}}
runAsUser: 0
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "functions.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "functions.probes" -}}
readinessProbe:
  httpGet: { path: /readyz, port: metrics }
  periodSeconds: 1
  failureThreshold: 2
livenessProbe:
  httpGet: { path: /healthz, port: metrics }
  periodSeconds: 10
  failureThreshold: 6
{{- end }}

{{- define "functions.env" -}}
- name: FARPLANE_POD_NAME
  valueFrom: { fieldRef: { fieldPath: metadata.name } }
- name: FARPLANE_NAMESPACE
  valueFrom: { fieldRef: { fieldPath: metadata.namespace } }
- name: FARPLANE_EXECUTOR_URL
  value: http://executor.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}.
- name: FARPLANE_QUEUE_URL
  value: http://queue.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}.
- name: FARPLANE_STORAGE_URL
  value: http://storagesvc.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}.
- name: FARPLANE_ROUTER_URL
  value: http://router-internal.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}.
- name: FARPLANE_FUNCTIONS_IMAGE
  value: {{ required "images.functions is required" .Values.images.functions | quote }}
- name: FARPLANE_IMAGE_PULL_POLICY
  value: {{ .Values.imagePullPolicy | quote }}
{{- end }}

{{- define "functions.imagePullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /*
A Deployment of one role: dict "root" "name" "role" "values" "ports" and, where there is one,
"application" "grace" "volume" "mountPath".
*/ -}}
{{- define "functions.deployment" -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "functions.labels" .root | nindent 4 }}
    svc: {{ .name }}
    {{- with .application }}
    application: {{ . }}
    {{- end }}
spec:
  replicas: {{ .values.replicas | default 1 }}
  strategy:
    {{- if .volume }}
    # A volume may be mountable by one node only: the next Pod comes when the one before is gone.
    rollingUpdate: { maxUnavailable: 1, maxSurge: 0 }
    {{- else }}
    rollingUpdate: { maxUnavailable: 0, maxSurge: 1 }
    {{- end }}
  selector:
    matchLabels:
      svc: {{ .name }}
  template:
    metadata:
      labels:
        {{- include "functions.labels" .root | nindent 8 }}
        svc: {{ .name }}
        {{- with .application }}
        application: {{ . }}
        {{- end }}
      annotations:
        prometheus.io/scrape: "true"
        prometheus.io/port: "8080"
    spec:
      serviceAccountName: fission-{{ .role }}
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ .grace | default 30 }}
      {{- include "functions.imagePullSecrets" .root | nindent 6 }}
      securityContext:
        {{- include (ternary "functions.directorySecurity" "functions.podSecurity" (and (hasKey . "volume") (ne .root.Values.volumes.hostPath ""))) . | nindent 8 }}
      {{- if gt (int (.values.replicas | default 1)) 1 }}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              svc: {{ .name }}
      {{- end }}
      {{- if not .volume }}
      # It keeps nothing: a node that is lost need not be waited for.
      tolerations:
        - { key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 30 }
        - { key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 30 }
      {{- end }}
      {{- if and .volume .root.Values.volumes.hostPath }}
      nodeSelector:
        kubernetes.io/hostname: {{ required "volumes.node is required with volumes.hostPath" .root.Values.volumes.node }}
      {{- end }}
      containers:
        - name: {{ .name }}
          image: {{ .root.Values.images.functions }}
          imagePullPolicy: {{ .root.Values.imagePullPolicy }}
          args: [{{ .role }}]
          env:
            {{- include "functions.env" .root | nindent 12 }}
            - { name: RUST_LOG, value: {{ .values.logLevel | quote }} }
            {{- with .env }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          ports:
            {{- range $name, $port := .ports }}
            - { name: {{ $name }}, containerPort: {{ $port }} }
            {{- end }}
            - { name: metrics, containerPort: 8080 }
          {{- include "functions.probes" .root | nindent 10 }}
          resources:
            {{- toYaml .values.resources | nindent 12 }}
          securityContext:
            {{- include "functions.containerSecurity" .root | nindent 12 }}
          {{- with .volume }}
          volumeMounts:
            - { name: {{ . }}, mountPath: {{ $.mountPath }} }
          {{- end }}
      {{- if .volume }}
      volumes:
        - name: {{ .volume }}
          {{- if .root.Values.volumes.hostPath }}
          hostPath: { path: {{ .root.Values.volumes.hostPath }}/{{ .volume }}, type: DirectoryOrCreate }
          {{- else }}
          persistentVolumeClaim: { claimName: {{ .volume }} }
          {{- end }}
      {{- end }}
{{- end }}

{{- define "functions.service" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "functions.labels" .root | nindent 4 }}
    {{- with .application }}
    application: {{ . }}
    {{- end }}
spec:
  type: {{ .type | default "ClusterIP" }}
  selector:
    svc: {{ .svc }}
    {{- if .leads }}
    farplane.io/leads: "true"
    {{- end }}
  ports:
    - name: http
      port: 80
      targetPort: {{ .port }}
      {{- with .nodePort }}
      nodePort: {{ . }}
      {{- end }}
{{- end }}

{{- define "functions.claim" }}
{{- if not .root.Values.volumes.hostPath }}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "functions.labels" .root | nindent 4 }}
  annotations:
    helm.sh/resource-policy: keep
spec:
  accessModes:
    {{- toYaml .volume.accessModes | nindent 4 }}
  {{- with .root.Values.volumes.storageClass }}
  storageClassName: {{ . }}
  {{- end }}
  resources:
    requests:
      storage: {{ .volume.size }}
{{- end }}
{{- end }}
